// Draw or paste a molecule, and see its cards.

import { models, predict, type Prediction, type Result } from "./api";
import { card } from "./card";
import { editor, type Editor, smilesOfBlock } from "./chem";
import { copyText, csv } from "./copy";
import { announce, busy, button, failure, h, number } from "./dom";

const EXAMPLES: [string, string][] = [
  ["Aspirin", "CC(=O)Oc1ccccc1C(=O)O"],
  ["Caffeine", "Cn1c(=O)c2c(ncn2C)n(C)c1=O"],
  ["Propranolol", "CC(C)NCC(O)COc1cccc2ccccc12"],
  ["Imatinib", "Cc1ccc(NC(=O)c2ccc(CN3CCN(C)CC3)cc2)cc1Nc1nccc(-c2cccnc2)n1"],
  ["Cisplatin", "N[Pt](N)(Cl)Cl"],
];

/** Shows the part of the page; what it returns shows another molecule in it. */
export function moleculePage(place: HTMLElement): (smiles: string) => void {
  const field = h("input", {
    id: "smiles",
    name: "smiles",
    type: "text",
    spellcheck: "false",
    autocomplete: "off",
    autocapitalize: "off",
    "aria-describedby": "smiles-help",
    placeholder: "CC(=O)Oc1ccccc1C(=O)O",
  });
  const hint = h("p", { id: "smiles-help", class: "small" }, "SMILES or InChI; a pasted molblock is taken, too. Enter predicts.");
  const results = h("div", { id: "results" });
  const canvas = h("div", { class: "editor", role: "group", "aria-label": "Structure editor, for the mouse; the SMILES field does the same" });
  let drawing: Editor | null = null;

  const show = () => {
    const text = field.value.trim();
    const drawn = text === "" || text.startsWith("InChI=") || drawing === null || drawing.show(text);
    field.classList.toggle("unread", !drawn);
    hint.textContent = drawn
      ? "SMILES or InChI; a pasted molblock is taken, too. Enter predicts."
      : "The drawing does not follow: this SMILES cannot be read, or is not finished.";
  };
  const go = (text: string) => {
    location.hash = `#/?smiles=${encodeURIComponent(text)}`;
  };
  field.addEventListener("input", show);
  field.addEventListener("paste", (event) => {
    const text = event.clipboardData?.getData("text") ?? "";
    if (!text.includes("M  END")) return;
    event.preventDefault();
    smilesOfBlock(text)
      .then((found) => {
        field.value = found;
        show();
      })
      .catch(() => (hint.textContent = "The molblock cannot be read."));
  });

  const form = h(
    "form",
    {
      class: "ask",
      onsubmit: (event) => {
        event.preventDefault();
        const text = field.value.trim();
        if (!text) {
          hint.textContent = "Draw a molecule, or write its SMILES, first.";
          field.focus();
        } else if (location.hash === `#/?smiles=${encodeURIComponent(text)}`) void answer(results, text);
        else go(text);
      },
    },
    h("label", { for: "smiles" }, "SMILES"),
    h("div", { class: "line" }, field, h("button", { type: "submit", class: "main" }, "Predict")),
    hint,
    h(
      "p",
      { class: "examples" },
      h("span", {}, "Examples:"),
      ...EXAMPLES.map(([name, text]) => button(name, () => go(text), "chip")),
    ),
  );
  place.replaceChildren(
    h("h1", {}, "A molecule"),
    h("div", { class: "input" }, canvas, form),
    results,
  );
  canvas.append(busy("Loading the editor …"));
  requestAnimationFrame(() => {
    canvas.replaceChildren();
    editor(canvas, (found) => {
      field.value = found;
      field.classList.remove("unread");
    })
      .then((made) => {
        drawing = made;
        show();
      })
      .catch(() => canvas.replaceChildren(h("p", {}, "The editor cannot be shown here; the SMILES field works.")));
  });
  return (smiles) => {
    if (field.value.trim() !== smiles) field.value = smiles;
    show();
    if (smiles) void answer(results, smiles);
    else results.replaceChildren();
  };
}

async function answer(place: HTMLElement, smiles: string): Promise<void> {
  place.replaceChildren(busy("Predicting …"));
  try {
    const [known, result] = await Promise.all([models(), predict(smiles)]);
    if (result.error !== null || result.smiles === null) {
      place.replaceChildren(failure(result.error ?? "The molecule cannot be read."));
      return;
    }
    const used = result.smiles;
    const cards = result.predictions.flatMap((one) => {
      const model = known.models.find((other) => other.name === one.model);
      return model ? [card(model, one, smiles)] : [];
    });
    place.replaceChildren(tools(result, used), h("div", { class: "cards" }, ...cards));
    announce(
      result.predictions.map((one) => `${one.property.replaceAll("_", " ")}: ${spoken(one)}`).join("; "),
    );
  } catch (error) {
    place.replaceChildren(failure(error));
  }
}

function spoken(one: Prediction): string {
  if (!one.classes) return `${number(one.value)} ${one.unit}`;
  return `${one.predicted_class}, probability of ${one.classes[1]} ${number(one.value, 2)}`;
}

function tools(result: Result, smiles: string): HTMLElement {
  return h(
    "div",
    { class: "tools" },
    h("code", { class: "words" }, smiles),
    h(
      "span",
      { class: "buttons" },
      button("Copy SMILES", () => void copyText(smiles, "SMILES", "molecule.smi")),
      button("Copy CSV", () => void copyText(csv(result), "Table", "predictions.csv")),
      button("Copy link", () => void copyText(location.href, "Link", "link.txt")),
    ),
  );
}
