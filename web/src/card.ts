// The card of one property: value, interval, domain, reasons.

import { type Classes, type Explanation, explain, type Flag, type Model, type Prediction } from "./api";
import { picture, structure } from "./chem";
import { copyPicture } from "./copy";
import { busy, button, type Child, failure, h, number, unit } from "./dom";
import { probability, scale } from "./scale";

const DOMAIN: Record<Flag, [string, string]> = {
  in: ["In the domain", "like the molecules that the model knows"],
  near: ["At the edge of the domain", "read the value with care"],
  out: ["Outside of the domain", "the value is an extrapolation"],
};

export function badge(flag: Flag | null, short = false): HTMLElement {
  if (!flag) return h("span", {}, "–");
  return h("span", { class: `badge ${flag}` }, short ? flag : DOMAIN[flag][0]);
}

export function card(model: Model, one: Prediction, smiles: string): HTMLElement {
  const digits = model.decimals;
  const id = `card-${model.name.replace(/\W/g, "-")}`;
  const why = h("div", { class: "why" });
  const [big, ...words] = one.classes ? classHead(one, one.classes, digits) : numberHead(one, digits);
  const place = h(
    "article",
    { class: "card", "aria-labelledby": id },
    h("h2", { id }, title(model)),
    one.value === null
      ? h("p", { class: "failure" }, one.note || "There is no prediction.")
      : h(
          "div",
          { class: "head" },
          big,
          h("div", {}, ...words, one.domain && h("p", { class: "flag" }, badge(one.domain), ` ${reason(one)}`)),
        ),
    one.measured !== null &&
      h(
        "p",
        { class: "known" },
        `Measured: ${`${reading(one.measured, one, digits)} ${unit(one.unit)}`.trim()}. This molecule is in the data that the model learned from.`,
      ),
    one.note && one.value !== null && h("p", { class: "note" }, one.note),
    one.value !== null && figure(one, model, digits),
    why,
  );
  if (one.value === null) return place;
  why.append(busy("Asking which atoms make the value …"));
  explain(smiles, model.name)
    .then((found) => why.replaceChildren(h("div", {}, ...reasons(found, one, model))))
    .catch((error) => why.replaceChildren(failure(error)));
  return place;
}

export function title(model: Model): string {
  const words = model.predicts.replaceAll("_", " ");
  return words.charAt(0).toUpperCase() + words.slice(1);
}

function numberHead(one: Prediction, digits: number | null): Child[] {
  return [
    h(
      "p",
      { class: "number" },
      h("strong", {}, number(one.value, digits)),
      unit(one.unit) && h("span", { class: "unit" }, ` ${unit(one.unit)}`),
    ),
    one.low !== null &&
      h(
        "p",
        { class: "range" },
        `${Math.round(one.level * 100)} % interval `,
        h("b", {}, `${number(one.low, digits)} to ${number(one.high, digits)}`),
      ),
  ];
}

function classHead(one: Prediction, classes: Classes, digits: number | null): Child[] {
  const held = one.prediction_set;
  const level = `${Math.round(one.level * 100)} % prediction set `;
  return [
    h("p", { class: "number" }, h("strong", { class: "words" }, one.predicted_class ?? "")),
    h("p", { class: "range" }, `probability of ${classes[1]} `, h("b", {}, number(one.value, digits))),
    held && h("p", { class: "range" }, level, h("b", {}, held.join(" or ") || "none: like neither class")),
  ];
}

/** What was measured, in words where there are classes. */
function reading(value: number, one: Prediction, digits: number | null): string {
  return one.classes ? one.classes[value > 0.5 ? 1 : 0] : number(value, digits);
}

function reason(one: Prediction): string {
  return one.reason || (one.domain ? DOMAIN[one.domain][1] : "");
}

function figure(one: Prediction, model: Model, digits: number | null): HTMLElement {
  const drawn = one.classes
    ? [probability(one, model, one.classes), classLegend(model, one.classes)]
    : [scale(one, model.training, digits), legend(one, model)];
  return h("figure", { class: "histogram" }, ...drawn);
}

function legend(one: Prediction, model: Model): HTMLElement {
  const parts = [
    "● prediction",
    one.low !== null && "├─┤ interval",
    one.measured !== null && "◆ measured",
    model.training && `bars: ${model.molecules?.toLocaleString("en") ?? "the"} measured molecules of the training`,
  ];
  return h("figcaption", {}, parts.filter(Boolean).join("   "));
}

function classLegend(model: Model, classes: Classes): HTMLElement {
  const share = model.prevalence === null ? "" : `┆ ${(model.prevalence * 100).toFixed(0)} % of the training are ${classes[1]}`;
  const held = model.held_out;
  const count = held ? [...held.negative, ...held.positive].reduce((sum, one) => sum + one, 0) : 0;
  return h(
    "figcaption",
    {},
    ["● calibrated probability", share].filter(Boolean).join("   "),
    held && h("br"),
    held && `bars: ${count.toLocaleString("en")} molecules held out, measured `,
    ...(held ? keys(classes) : []),
  );
}

/** The names of both classes in the colours of their bars. */
export function keys([negative, positive]: Classes): Child[] {
  return [h("span", { class: "key negative" }, negative), " or ", h("span", { class: "key positive" }, positive)];
}

function reasons(found: Explanation, one: Prediction, model: Model): Child[] {
  const digits = model.decimals ?? 2;
  return [
    h(
      "section",
      {},
      h("h3", {}, `What each atom adds${found.contributions_to ? ` to the ${found.contributions_to}` : ""}`),
      h("div", { class: "paper drawing" }, picture(found.drawing, `Contributions of the atoms. ${found.summary}`)),
      h("p", { class: "small" }, found.summary),
      h(
        "details",
        {},
        h("summary", {}, "Numbers"),
        h(
          "div",
          { class: "scroll", tabindex: 0, role: "region", "aria-label": "Contributions of the atoms" },
          h(
            "table",
            {},
            h("thead", {}, header("Atom", "Contribution", "Standard error")),
            h(
              "tbody",
              {},
              ...found.atoms.map((atom) =>
                h(
                  "tr",
                  {},
                  h("th", { scope: "row" }, `${atom.element} ${atom.atom}`),
                  h("td", {}, number(atom.contribution, digits)),
                  h("td", {}, number(atom.standard_error, digits)),
                ),
              ),
            ),
          ),
        ),
      ),
      button("Copy drawing as PNG", () => void copyPicture(found.drawing, `${model.name}.png`)),
    ),
    found.neighbours.length > 0 &&
      h(
        "section",
        {},
        h("h3", {}, "Nearest measured molecules"),
        h(
          "ul",
          { class: "neighbours" },
          ...found.neighbours.map((near) =>
            h(
              "li",
              {},
              structure(near.smiles, 150, 110),
              h(
                "div",
                {},
                h("p", {}, h("strong", {}, reading(near.value, one, digits)), ` ${unit(one.unit)} measured`),
                h("p", { class: "small" }, `Similarity ${number(near.similarity, 2)}`),
                h("p", { class: "small words" }, near.compared.charAt(0).toUpperCase() + near.compared.slice(1)),
              ),
            ),
          ),
        ),
      ),
    found.sites && one.charge !== null && ionisation(found, one),
  ];
}

function ionisation(found: Explanation, one: Prediction): HTMLElement {
  const sites = found.sites ?? [];
  return h(
    "section",
    {},
    h("h3", {}, "Ionisation at pH 7.4"),
    sites.length === 0
      ? h("p", {}, "No site takes up or loses a proton in water.")
      : h(
          "div",
          { class: "ionised" },
          h(
            "ul",
            {},
            ...sites.map((site) =>
              h("li", {}, `${site.kind === "acid" ? "Acid" : "Base"}: ${site.element} ${site.atom}, pKa `, h("b", {}, number(site.pka, 1))),
            ),
          ),
          found.form && h("div", { class: "paper drawing" }, picture(found.form, "Main form at pH 7.4")),
        ),
    one.charge !== null && h("p", {}, "Net charge ", h("b", {}, number(one.charge, 1))),
    one.main_form && h("p", { class: "small words" }, "Main form ", h("code", {}, one.main_form)),
    sites.length > 0 && h("p", { class: "small" }, "Estimates by MolGpKa, each ± 0.5 to 0.8."),
  );
}

export function header(...names: string[]): HTMLTableRowElement {
  return h("tr", {}, ...names.map((name) => h("th", { scope: "col" }, name)));
}
