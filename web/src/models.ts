// The card of each model.

import { type Model, models } from "./api";
import { keys, title } from "./card";
import { busy, failure, h, number, unit } from "./dom";
import { classHistogram, histogram } from "./scale";

const SCORES: [string, string][] = [
  ["roc_auc", "ROC AUC"],
  ["pr_auc", "PR AUC"],
  ["balanced_accuracy", "Balanced accuracy"],
  ["mcc", "MCC"],
  ["brier", "Brier score"],
  ["calibration_error", "Calibration error"],
];

export async function modelsPage(place: HTMLElement): Promise<void> {
  const list = h("div", {}, busy("Asking …"));
  place.replaceChildren(h("h1", {}, "Models"), list);
  try {
    const known = await models();
    list.replaceChildren(
      h("div", { class: "cards" }, ...known.models.map(about)),
      h("p", { class: "small" }, `moltune ${known.version}`),
    );
  } catch (error) {
    list.replaceChildren(failure(error));
  }
}

function about(model: Model): HTMLElement {
  const id = `model-${model.name.replace(/\W/g, "-")}`;
  const facts: [string, string | null][] = [
    ["Error (RMSE)", model.rmse === null ? null : `${`${number(model.rmse, model.decimals)} ${unit(model.unit)}`.trim()}, ${model.error_from}`],
    ...SCORES.map(([name, label]): [string, string | null] => [label, name in model.scores ? `${number(model.scores[name], 3)}${name === "roc_auc" ? `, ${model.error_from}` : ""}` : null]),
    [model.classes ? "Sets" : "Intervals", model.coverage === null ? null : `${Math.round(model.level * 100)} % ${model.classes ? "prediction sets" : "intervals"} held ${(model.coverage * 100).toFixed(1)} % of the measurements`],
    ["Classes", model.classes && `${model.classes[1]}${model.prevalence === null ? "" : ` (${(model.prevalence * 100).toFixed(0)} % of the training)`} or ${model.classes[0]}`],
    ["Trained on", model.molecules === null ? null : `${model.molecules.toLocaleString("en")} molecules`],
    ["Reads", model.features.length ? model.features.join(", ") : null],
    ["Data", model.data.source ?? model.data.set ?? null],
    ["Licence", model.data.licence ?? null],
    ["Citation", model.data.citation ?? null],
    ["Made", model.date || null],
  ];
  return h(
    "article",
    { class: "card", "aria-labelledby": id },
    h("h2", { id }, title(model)),
    h("p", {}, h("code", {}, model.name), model.ready ? " comes with moltune" : " is your own run"),
    model.training &&
      h(
        "figure",
        { class: "histogram" },
        histogram(model.training, "Histogram of the training values"),
        h("figcaption", {}, `training values${unit(model.unit) ? ` (${unit(model.unit)})` : ""}`),
      ),
    model.held_out &&
      model.classes &&
      h(
        "figure",
        { class: "histogram" },
        classHistogram(model.held_out, "Histogram of the probabilities of molecules that were held out"),
        h("figcaption", {}, `probability of ${model.classes[1]}, of molecules that were held out and measured `, ...keys(model.classes)),
      ),
    h(
      "dl",
      {},
      ...facts.flatMap(([name, text]) => (text ? [h("dt", {}, name), h("dd", { class: "words" }, text)] : [])),
    ),
    ...model.caveats.map((text) => h("p", { class: "note" }, text)),
  );
}
