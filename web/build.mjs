// Bundles the page into the package: names of files change with their content, so that browsers may keep them.
import { build } from "esbuild";
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { basename } from "node:path";

const target = "../src/moltune/service/static";
await rm(target, { recursive: true, force: true });
await mkdir(target, { recursive: true });

const result = await build({
  entryPoints: ["src/main.ts", "src/style.css"],
  outdir: target,
  bundle: true,
  splitting: true,
  format: "esm",
  target: "es2022",
  minify: true,
  legalComments: "none",
  entryNames: "[name]-[hash]",
  chunkNames: "[name]-[hash]",
  metafile: true,
});

const made = Object.entries(result.metafile.outputs);
const of = (source) => basename(made.find(([, about]) => about.entryPoint === source)[0]);
const page = (await readFile("src/index.html", "utf8"))
  .replace("main.js", of("src/main.ts"))
  .replace("style.css", of("src/style.css"));
await writeFile(`${target}/index.html`, page);
await writeFile(`${target}/LICENCES.txt`, await licences());
for (const [name, about] of made) console.log(basename(name), about.bytes);

async function licences() {
  const text = await readFile("node_modules/openchemlib/LICENSE", "utf8");
  return `The page bundles OpenChemLib JS (https://github.com/cheminfo/openchemlib-js):\n\n${text}`;
}
