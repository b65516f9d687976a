// OpenChemLib, loaded when it is first needed: drawings of structures and the editor.

import { h } from "./dom";

type Library = typeof import("openchemlib");
let library: Promise<Library> | null = null;
const load = (): Promise<Library> => (library ??= import("openchemlib"));

export function picture(svg: string, alt: string, kind = ""): HTMLImageElement {
  // As an image, a drawing may carry styles of its own, which the page's policy forbids inside the page.
  const image = h("img", { alt, class: kind, decoding: "async" });
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svg)}`;
  return image;
}

export function structure(smiles: string, width: number, height: number, label?: string): HTMLElement {
  const place = h("span", { class: "structure paper" });
  void load().then(({ Molecule }) => {
    try {
      const svg = Molecule.fromSmiles(smiles).toSVG(width, height, undefined, {
        autoCrop: true,
        autoCropMargin: 6,
        suppressChiralText: true,
        suppressCIPParity: true,
        suppressESR: true,
      });
      place.append(picture(svg, label ?? `Structure of ${smiles}`));
    } catch {
      place.append(smiles);
    }
  });
  return place;
}

export async function smilesOfBlock(block: string): Promise<string> {
  const { Molecule } = await load();
  return Molecule.fromMolfile(block).toIsomericSmiles();
}

export interface Editor {
  show(smiles: string): boolean;
}

export async function editor(place: HTMLElement, changed: (smiles: string) => void): Promise<Editor> {
  const { CanvasEditor, Molecule } = await load();
  const canvas = new CanvasEditor(place, { initialMode: "molecule" });
  canvas.setOnChangeListener((event) => {
    if (event.type === "molecule" && event.isUserEvent) changed(canvas.getMolecule().toIsomericSmiles());
  });
  return {
    show(smiles: string): boolean {
      try {
        canvas.setMolecule(Molecule.fromSmiles(smiles));
        return true;
      } catch {
        return false;
      }
    },
  };
}
