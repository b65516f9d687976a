// What can be taken home: text and pictures on the clipboard, or as a file where the browser has no clipboard.

import type { Result } from "./api";
import { announce } from "./dom";

export async function copyText(text: string, what: string, file: string): Promise<void> {
  try {
    await navigator.clipboard.writeText(text);
    announce(`${what} copied.`);
  } catch {
    save(new Blob([text], { type: "text/plain" }), file);
    announce(`${what} saved as a file.`);
  }
}

export async function copyPicture(svg: string, file: string): Promise<void> {
  const made = png(svg);
  try {
    await navigator.clipboard.write([new ClipboardItem({ "image/png": made })]);
    announce("Picture copied.");
  } catch {
    save(await made, file);
    announce("Picture saved as a file.");
  }
}

export function save(content: Blob, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(content);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

async function png(svg: string): Promise<Blob> {
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svg)}`;
  await image.decode();
  const canvas = document.createElement("canvas");
  canvas.width = image.naturalWidth * 2;
  canvas.height = image.naturalHeight * 2;
  canvas.getContext("2d")?.drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve, reject) =>
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("The picture cannot be made."))), "image/png"),
  );
}

export function csv(result: Result): string {
  const head = ["smiles", "model", "property", "unit", "value", "low", "high", "class", "set", "level", "domain", "reason"];
  const lines = result.predictions.map((one) => [
    result.smiles,
    one.model,
    one.property,
    one.unit,
    one.value,
    one.low,
    one.high,
    one.predicted_class,
    one.prediction_set?.join(" or "),
    one.level,
    one.domain,
    one.reason,
  ]);
  const cell = (value: unknown) => {
    const text = value === null || value === undefined ? "" : String(value);
    return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return [head, ...lines].map((line) => line.map(cell).join(",")).join("\n") + "\n";
}
