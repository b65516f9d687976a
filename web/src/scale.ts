// An interval on a scale above the histogram of the training values; and a histogram alone.

import type { ClassHistogram, Classes, Histogram, Model, Prediction } from "./api";
import { number, s, unit } from "./dom";

const WIDE = 440;
const LEFT = 12;

function ticks(from: number, to: number): number[] {
  const rough = (to - from) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = ([1, 2, 5, 10].find((one) => one * power >= rough) ?? 10) * power;
  const found: number[] = [];
  for (let at = Math.ceil(from / step) * step; at <= to + 1e-9; at += step) found.push(Number(at.toPrecision(12)));
  return found;
}

function bars(training: Histogram, x: (value: number) => number, base: number, tall: number): SVGElement[] {
  const most = Math.max(...training.counts, 1);
  return training.counts.map((count, at) => {
    const left = x(training.edges[at] ?? 0);
    const right = x(training.edges[at + 1] ?? 0);
    const height = (count / most) * tall;
    return s("rect", { class: "bar", x: left, y: base - height, width: Math.max(right - left - 0.6, 0.4), height });
  });
}

function axis(from: number, to: number, x: (value: number) => number, base: number): SVGElement[] {
  return [
    s("line", { class: "axis", x1: x(from), x2: x(to), y1: base, y2: base }),
    ...ticks(from, to).flatMap((at) => [
      s("line", { class: "axis", x1: x(at), x2: x(at), y1: base, y2: base + 4 }),
      s("text", { class: "tick", x: x(at), y: base + 17, "text-anchor": "middle" }, number(at)),
    ]),
  ];
}

export function scale(one: Prediction, training: Histogram | null, decimals: number | null): SVGElement {
  const values = [one.value, one.low, one.high, one.measured, training?.edges[0], training?.edges.at(-1)];
  const known = values.filter((value): value is number => typeof value === "number");
  const margin = (Math.max(...known) - Math.min(...known)) * 0.03 || 1;
  const from = Math.min(...known) - margin;
  const to = Math.max(...known) + margin;
  const x = (value: number) => LEFT + ((value - from) / (to - from)) * (WIDE - 2 * LEFT);
  const [line, base] = [16, 104];
  const value = one.value ?? 0;
  const words = [
    `${number(value, decimals)} ${unit(one.unit)}`.trim(),
    one.low !== null && `${Math.round(one.level * 100)} % interval ${number(one.low, decimals)} to ${number(one.high, decimals)}`,
    training && `on a scale from ${number(training.edges[0])} to ${number(training.edges.at(-1))}, the training values`,
  ];
  const parts: (SVGElement | null)[] = [
    ...(training ? bars(training, x, base, 66) : []),
    ...axis(from, to, x, base),
    s("line", { class: "guide", x1: x(value), x2: x(value), y1: line, y2: base }),
    one.low !== null && one.high !== null
      ? s(
          "g",
          { class: "interval" },
          s("line", { x1: x(one.low), x2: x(one.high), y1: line, y2: line }),
          s("line", { x1: x(one.low), x2: x(one.low), y1: line - 6, y2: line + 6 }),
          s("line", { x1: x(one.high), x2: x(one.high), y1: line - 6, y2: line + 6 }),
        )
      : null,
    one.measured !== null
      ? s("path", { class: "measured", d: `M${x(one.measured)} ${line - 8}l7 8l-7 8l-7 -8z` })
      : null,
    s("circle", { class: "value", cx: x(value), cy: line, r: 6 }),
  ];
  return s(
    "svg",
    { viewBox: `0 0 ${WIDE} 126`, class: "scale", role: "img", "aria-label": words.filter(Boolean).join(", ") },
    ...parts,
  );
}

function stacked(found: ClassHistogram, x: (value: number) => number, base: number, tall: number): SVGElement[] {
  const most = Math.max(...found.negative.map((count, at) => count + (found.positive[at] ?? 0)), 1);
  return found.negative.flatMap((below, at) => {
    const left = x(found.edges[at] ?? 0);
    const width = Math.max(x(found.edges[at + 1] ?? 0) - left - 0.6, 0.4);
    const above = found.positive[at] ?? 0;
    const bar = (kind: string, from: number, count: number) =>
      s("rect", { class: `bar ${kind}`, x: left, y: base - ((from + count) / most) * tall, width, height: (count / most) * tall });
    return [bar("negative", 0, below), bar("positive", below, above)];
  });
}

/** A probability between 0 and 1 above those of molecules that were held out, with the share of positives. */
export function probability(one: Prediction, model: Model, [negative, positive]: Classes): SVGElement {
  const x = (value: number) => LEFT + value * (WIDE - 2 * LEFT);
  const [line, base] = [16, model.held_out ? 104 : 34];
  const value = one.value ?? 0;
  const share = model.prevalence;
  const words = [
    `probability of ${positive} ${number(value, 2)} on a scale from 0 (${negative}) to 1`,
    share !== null && `share of ${positive} in the training ${number(share, 2)}`,
    model.held_out && `above a histogram of the probabilities of molecules that were held out`,
  ];
  return s(
    "svg",
    { viewBox: `0 0 ${WIDE} ${base + 22}`, class: "scale", role: "img", "aria-label": words.filter(Boolean).join(", ") },
    ...(model.held_out ? stacked(model.held_out, x, base, 66) : []),
    ...axis(0, 1, x, base),
    share === null ? null : s("line", { class: "share", x1: x(share), x2: x(share), y1: line + 10, y2: base }),
    s("line", { class: "track", x1: x(0), x2: x(1), y1: line, y2: line }),
    s("line", { class: "filled", x1: x(0), x2: x(value), y1: line, y2: line }),
    s("line", { class: "guide", x1: x(value), x2: x(value), y1: line, y2: base }),
    s("circle", { class: "value", cx: x(value), cy: line, r: 6 }),
  );
}

export function classHistogram(found: ClassHistogram, label: string): SVGElement {
  const x = (value: number) => LEFT + value * (WIDE - 2 * LEFT);
  return s(
    "svg",
    { viewBox: `0 0 ${WIDE} 118`, class: "scale", role: "img", "aria-label": label },
    ...stacked(found, x, 94, 84),
    ...axis(0, 1, x, 94),
  );
}

export function histogram(found: Histogram, label: string): SVGElement {
  const [from, to] = [found.edges[0] ?? 0, found.edges.at(-1) ?? 1];
  const span = to - from || 1;
  const x = (value: number) => LEFT + ((value - from) / span) * (WIDE - 2 * LEFT);
  return s(
    "svg",
    { viewBox: `0 0 ${WIDE} 118`, class: "scale", role: "img", "aria-label": label },
    ...bars(found, x, 94, 84),
    ...axis(from, to, x, 94),
  );
}
