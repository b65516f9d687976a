// Small helpers: elements, numbers, announcements to screen readers.

export type Child = Node | string | null | undefined | false;
type Attributes = Record<string, string | number | boolean | ((event: Event) => void) | undefined>;

function fill<T extends Element>(element: T, attributes: Attributes, children: Child[]): T {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children) if (child) element.append(child);
  return element;
}

export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Attributes = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  return fill(document.createElement(tag), attributes, children);
}

export function s(tag: string, attributes: Attributes = {}, ...children: Child[]): SVGElement {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

export function announce(text: string): void {
  const live = document.getElementById("live");
  if (live) live.textContent = text;
}

export function number(value: number | null | undefined, decimals: number | null = null): string {
  if (value === null || value === undefined) return "–";
  const text = decimals === null ? String(Number(value.toPrecision(4))) : value.toFixed(decimals);
  // No minus before a zero, and a true minus sign before all else.
  return (Number(text) === 0 ? text.replace("-", "") : text).replace("-", "−");
}

export function unit(text: string): string {
  return text === "log units" ? "" : text;
}

export function button(text: string, action: () => void, kind = "quiet"): HTMLButtonElement {
  return h("button", { type: "button", class: kind, onclick: action }, text);
}

export function failure(error: unknown): HTMLElement {
  const text = error instanceof Error ? error.message : String(error);
  return h("p", { class: "failure", role: "alert" }, text);
}

export function busy(text: string): HTMLElement {
  return h("p", { class: "busy" }, h("span", { class: "spinner", "aria-hidden": "true" }), text);
}
