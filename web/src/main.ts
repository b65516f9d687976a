// Which part of the page is shown, by the address after the #.

import { onToken, token } from "./api";
import { h } from "./dom";
import { filesPage } from "./files";
import { modelsPage } from "./models";
import { moleculePage } from "./molecule";

const main = document.getElementById("main") as HTMLElement;
let shown = "";
let molecule: ((smiles: string) => void) | null = null;

function show(): void {
  const [path = "", query = ""] = location.hash.replace(/^#/, "").split("?");
  const parts = path.split("/").filter(Boolean);
  const part = parts[0] ?? "";
  for (const link of document.querySelectorAll("nav a")) {
    const here = link.getAttribute("href") === `#/${part}`;
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = { files: "A file – moltune", models: "Models – moltune" }[part] ?? "A molecule – moltune";
  if (part === "files" || part === "models") molecule = null;
  if (part === "files") filesPage(main, parts[1] ?? null);
  else if (part === "models") void modelsPage(main);
  else {
    const smiles = new URLSearchParams(query).get("smiles") ?? "";
    molecule ??= moleculePage(main);
    molecule(smiles);
  }
  if (shown && shown !== (part || "molecule")) main.focus();
  shown = part || "molecule";
}

function askForToken(): Promise<void> {
  return new Promise((resolve) => {
    const field = h("input", { type: "password", id: "token", autocomplete: "current-password", required: true });
    const dialog = h(
      "dialog",
      { "aria-labelledby": "token-title", oncancel: (event) => event.preventDefault() },
      h(
        "form",
        {
          method: "dialog",
          onsubmit: () => {
            token.set(field.value);
            dialog.remove();
            resolve();
          },
        },
        h("h2", { id: "token-title" }, "A token, please"),
        h("label", { for: "token" }, "Whoever runs this service has one for you."),
        field,
        h("button", { type: "submit", class: "main" }, "Go on"),
      ),
    );
    document.body.append(dialog);
    dialog.showModal();
  });
}

onToken(askForToken);
document.getElementById("skip")?.addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
window.addEventListener("hashchange", show);
show();
