// Drop a file, watch it, and see the table.

import { type Job, job, jobs, models, removeJob, upload } from "./api";
import { announce, busy, button, failure, h } from "./dom";
import { table } from "./table";

const EVERY = 1000;

export function filesPage(place: HTMLElement, id: string | null): void {
  place.replaceChildren(h("h1", {}, "A file"));
  if (id) void watch(place, id);
  else void choose(place);
}

async function choose(place: HTMLElement): Promise<void> {
  const said = h("div", { "aria-live": "polite" });
  const picker = h("input", {
    type: "file",
    id: "file",
    accept: ".csv,.tsv,.txt,.smi,.smiles,.sdf,.xlsx,.gz",
    onchange: () => picker.files?.[0] && void send(picker.files[0]),
  });
  const zone = h(
    "div",
    { class: "drop" },
    h("label", { for: "file" }, "Drop a file with structures here, or choose one"),
    picker,
    h("p", { class: "small" }, "CSV, TSV, SMI, SDF (also .gz) or XLSX; the column of structures is found by its name."),
  );
  const over = (on: boolean) => (event: Event) => {
    event.preventDefault();
    zone.classList.toggle("over", on);
  };
  zone.addEventListener("dragover", over(true));
  zone.addEventListener("dragleave", over(false));
  zone.addEventListener("drop", (event) => {
    over(false)(event);
    const file = event.dataTransfer?.files[0];
    if (file) void send(file);
  });

  const boxes = h("fieldset", { class: "choices" }, h("legend", {}, "Properties"));
  const list = h("div", {});
  place.append(zone, boxes, said, list);

  async function send(file: File): Promise<void> {
    const chosen = [...boxes.querySelectorAll<HTMLInputElement>("input:checked")].map((box) => box.value);
    const bar = h("progress", { max: 1, value: 0, "aria-label": "Upload" });
    said.replaceChildren(h("p", {}, `Sending ${file.name} `, bar));
    try {
      const limit = (await models()).limits.upload ?? Infinity;
      if (file.size > limit) throw new Error(`The file is too large; ${Math.round(limit / 2 ** 20)} MB are taken.`);
      const found = await upload(file, chosen, (share) => (bar.value = share));
      location.hash = `#/files/${found.id}`;
    } catch (error) {
      said.replaceChildren(failure(error));
      picker.value = "";
    }
  }

  try {
    const known = await models();
    boxes.append(
      ...known.models.map((one) =>
        h("label", {}, h("input", { type: "checkbox", value: one.name, checked: true }), ` ${one.name.replaceAll("_", " ")}`),
      ),
    );
    await kept(list);
  } catch (error) {
    said.replaceChildren(failure(error));
  }
}

async function kept(list: HTMLElement): Promise<void> {
  const found = await jobs();
  if (!found.length) return;
  list.replaceChildren(
    h("h2", {}, "Files that are kept"),
    h(
      "ul",
      { class: "jobs" },
      ...found.map((one) =>
        h(
          "li",
          {},
          h("a", { href: `#/files/${one.id}` }, one.name),
          h("span", { class: "small" }, ` ${state(one)}`),
          button("Delete", () => void removeJob(one.id).then(() => {
            list.replaceChildren();
            return kept(list);
          })),
        ),
      ),
    ),
  );
}

function state(one: Job): string {
  if (one.state === "running") return `under way, ${Math.round(one.progress * 100)} %`;
  return { queued: "waits", done: `done, ${one.rows?.toLocaleString("en") ?? ""} rows`, failed: "failed" }[one.state];
}

async function watch(place: HTMLElement, id: string): Promise<void> {
  const address = location.hash;
  const said = h("div", {});
  place.append(h("p", {}, h("a", { href: "#/files" }, "← Another file")), said);
  const bar = h("progress", { max: 1, "aria-label": "Progress" });
  const words = h("p", { class: "small" });
  const begun = Date.now();
  let before: number | null = null;
  said.append(busy("Asking …"));
  try {
    while (location.hash === address) {
      const found = await job(id);
      if (found.state === "failed") throw new Error(`${found.name}: ${found.error ?? "the file cannot be used"}`);
      if (found.state === "done") {
        announce(`${found.name} is done.`);
        said.replaceChildren();
        await table(said, found);
        return;
      }
      before ??= found.progress;
      bar.value = found.progress;
      const left = ((Date.now() - begun) / Math.max(found.progress - before, 1e-9)) * (1 - found.progress);
      const rows = found.rows ? `${found.rows.toLocaleString("en")} rows` : "";
      const rest = found.progress > before && left < 1e8 ? `about ${time(left / 1000)} left` : "";
      words.textContent = [state(found), rows, rest].filter(Boolean).join(", ");
      if (!bar.isConnected)
        said.replaceChildren(
          h("h2", {}, found.name),
          bar,
          words,
          button("Cancel and delete", () => void removeJob(id).then(() => (location.hash = "#/files"))),
          h("p", { class: "small" }, "This page may be closed: its address finds the file again."),
        );
      await new Promise((resolve) => setTimeout(resolve, EVERY));
    }
  } catch (error) {
    if (location.hash === address) said.replaceChildren(failure(error));
  }
}

function time(seconds: number): string {
  return seconds < 90 ? `${Math.max(1, Math.round(seconds))} s` : `${Math.round(seconds / 60)} min`;
}
