// The result of a file: a table that can be sorted and filtered, histograms, and the download.

import { call, type Flag, type Job, type JobModel, models, type Model, type Row, rows, token } from "./api";
import { badge, title } from "./card";
import { structure } from "./chem";
import { save } from "./copy";
import { announce, button, failure, h, number, unit } from "./dom";
import { histogram } from "./scale";

const PAGE = 25;

export async function table(place: HTMLElement, job: Job): Promise<void> {
  const known = (await models()).models;
  const of = (one: JobModel) => known.find((other) => other.name === one.model);
  const first = job.results[0];
  const query = { offset: 0, sort: "", descending: false, domain: "", model: first?.model ?? "" };
  const body = h("tbody", {});
  const heads = h("tr", {});
  const count = h("p", { class: "small", role: "status" });
  const back = button("← Previous", () => turn(-PAGE));
  const forth = button("Next →", () => turn(PAGE));

  const turn = (by: number) => {
    query.offset = Math.max(0, query.offset + by);
    void fill();
  };
  const sorted = (column: string) => {
    query.descending = query.sort === column ? !query.descending : false;
    query.sort = column;
    query.offset = 0;
    void fill();
  };

  async function fill(): Promise<void> {
    const wanted = new URLSearchParams({ offset: String(query.offset), limit: String(PAGE) });
    if (query.sort) wanted.set("sort", query.sort);
    if (query.descending) wanted.set("descending", "true");
    if (query.domain) {
      wanted.set("domain", query.domain);
      wanted.set("model", query.model);
    }
    try {
      const found = await rows(job.id, wanted);
      heads.replaceChildren(...headings(job, known, query.sort, query.descending, sorted));
      body.replaceChildren(...found.rows.map((row) => line(row, job, of)));
      const last = Math.min(query.offset + PAGE, found.total);
      count.textContent = found.total ? `Rows ${query.offset + 1} to ${last} of ${found.total.toLocaleString("en")}` : "No such rows";
      back.disabled = query.offset === 0;
      forth.disabled = last >= found.total;
    } catch (error) {
      body.replaceChildren(h("tr", {}, h("td", {}, failure(error))));
    }
  }

  const filter = h(
    "select",
    {
      id: "domain",
      onchange: () => {
        [query.model, query.domain] = filter.value ? (filter.value.split("\n") as [string, string]) : ["", ""];
        query.offset = 0;
        void fill();
      },
    },
    h("option", { value: "" }, "all rows"),
    ...job.results.flatMap((one) =>
      (["in", "near", "out"] as Flag[]).map((flag) =>
        h("option", { value: `${one.model}\n${flag}` }, `${one.model}: ${flag} (${one.domain[flag].toLocaleString("en")})`),
      ),
    ),
  );
  const missing = (job.rows ?? 0) - (job.predicted ?? 0);
  place.replaceChildren(
    h("h2", {}, job.name),
    h(
      "p",
      {},
      `${job.rows?.toLocaleString("en")} rows, ${job.predicted?.toLocaleString("en")} predicted. `,
      missing > 0 && `${missing.toLocaleString("en")} without a prediction: the last column says why. `,
    ),
    h("div", { class: "summaries" }, ...job.results.map((one) => summary(one, of(one)))),
    h(
      "div",
      { class: "tools" },
      h("span", {}, h("label", { for: "domain" }, "Domain: "), filter),
      download(job),
    ),
    h(
      "div",
      { class: "scroll", tabindex: 0, role: "region", "aria-label": "Predictions" },
      h("table", { class: "rows" }, h("thead", {}, heads), body),
    ),
    h("div", { class: "pages" }, back, count, forth),
  );
  await fill();
}

function headings(
  job: Job,
  known: Model[],
  sort: string,
  descending: boolean,
  sorted: (column: string) => void,
): HTMLElement[] {
  const sortable = (column: string, text: string) =>
    h(
      "th",
      { scope: "col", "aria-sort": sort === column ? (descending ? "descending" : "ascending") : "none" },
      h("button", { type: "button", class: "sort", onclick: () => sorted(column) }, text, arrow(sort === column, descending)),
    );
  return [
    sortable("row", "Row"),
    h("th", { scope: "col" }, "Structure"),
    ...job.results.flatMap((one) => {
      const flag = one.columns._domain;
      return [
        sortable(one.columns[""] ?? "", heading(one, known.find((other) => other.name === one.model))),
        ...(flag ? [sortable(flag, "Domain")] : []),
      ];
    }),
    ...job.others.map((name) => sortable(name, name)),
    h("th", { scope: "col" }, "Note"),
  ];
}

function heading(one: JobModel, model: Model | undefined): string {
  const more = model?.classes ? `probability of ${model.classes[1]}` : unit(model?.unit ?? "");
  return `${one.model.replaceAll("_", " ")}${more ? ` (${more})` : ""}`;
}

function arrow(here: boolean, descending: boolean): HTMLElement {
  return h("span", { "aria-hidden": "true", class: "arrow" }, here ? (descending ? " ▼" : " ▲") : " ↕");
}

function line(row: Row, job: Job, of: (one: JobModel) => Model | undefined): HTMLElement {
  const smiles = String(row[job.structure ?? ""] ?? "");
  return h(
    "tr",
    {},
    h("th", { scope: "row" }, String(row.row)),
    h("td", {}, smiles ? h("a", { href: `#/?smiles=${encodeURIComponent(smiles)}` }, structure(smiles, 120, 76)) : "–"),
    ...job.results.flatMap((one) => {
      const cell = (suffix: string) => row[one.columns[suffix] ?? ""] as number | null | undefined;
      const digits = of(one)?.decimals ?? null;
      const flag = one.columns._domain ? (row[one.columns._domain] as Flag | null) : null;
      const why = one.columns._reason ? row[one.columns._reason] : null;
      const held = one.columns._set ? row[one.columns._set] : null;
      return [
        h(
          "td",
          { class: "figure" },
          h("strong", {}, number(cell(""), digits)),
          one.columns._class && h("span", { class: "small" }, String(row[one.columns._class] ?? "")),
          held ? h("span", { class: "small" }, `set: ${held}`) : null,
          typeof cell("_low") === "number" && h("span", { class: "small" }, `${number(cell("_low"), digits)} to ${number(cell("_high"), digits)}`),
        ),
        ...(one.columns._domain
          ? [h("td", {}, badge(flag, true), typeof why === "string" && why !== "" && h("span", { class: "small words why", title: why }, why))]
          : []),
      ];
    }),
    ...job.others.map((name) => h("td", { class: "words" }, String(row[name] ?? ""))),
    h("td", { class: "words small" }, String(row[job.note ?? ""] ?? "")),
  );
}

function summary(one: JobModel, model: Model | undefined): HTMLElement {
  const name = model ? title(model) : one.model;
  const { in: inside, near, out } = one.domain;
  return h(
    "section",
    { class: "card" },
    h("h3", {}, name),
    one.histogram
      ? h("figure", { class: "histogram" }, histogram(one.histogram, `Histogram of the predictions, ${name}`), h("figcaption", {}, caption(one, model)))
      : h("p", {}, "No predictions."),
    inside + near + out > 0 &&
      h("p", { class: "flag" }, badge("in", true), ` ${inside.toLocaleString("en")} `, badge("near", true), ` ${near.toLocaleString("en")} `, badge("out", true), ` ${out.toLocaleString("en")}`),
  );
}

function caption(one: JobModel, model: Model | undefined): string {
  if (!model?.classes) return `predictions${model && unit(model.unit) ? ` (${model.unit})` : ""}`;
  const counts = Object.entries(one.classes).map(([name, count]) => `${name}\u00a0${count.toLocaleString("en")}`);
  return `probability of ${model.classes[1]}; predicted: ${counts.join(", ")}`;
}

function download(job: Job): HTMLElement {
  const path = `v1/jobs/${job.id}/result`;
  const text = `Download ${job.format.toUpperCase()}`;
  if (!token.get()) return h("a", { class: "main", href: path, download: "" }, text);
  // A link cannot send a token.
  return button(
    text,
    () =>
      void call(path)
        .then(async (answer) => save(await answer.blob(), `${job.name.replace(/\.[^.]*$/, "")}-predicted.${job.format}`))
        .catch((error) => announce(String(error))),
    "main",
  );
}
