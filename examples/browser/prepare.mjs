// Usage: node prepare.mjs BUNDLE TARGET TEXTS.json
// Copies the page, the libraries and one target of a bundle to site/. TEXTS.json is a list of strings.
import { cpSync, mkdirSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { findTarget, weightsOf } from "../node/embedder.mjs";

const [bundle, name, texts] = process.argv.slice(2);
if (!bundle || !name || !texts) {
  console.error("usage: node prepare.mjs BUNDLE TARGET TEXTS.json");
  process.exit(2);
}
const here = dirname(fileURLToPath(import.meta.url));
const site = join(here, "site");
const manifest = JSON.parse(readFileSync(join(bundle, "manifest.json"), "utf8"));
const target = findTarget(manifest, name);

rmSync(site, { recursive: true, force: true });
mkdirSync(join(site, "model"), { recursive: true });
for (const file of ["index.html", "app.mjs", "style.css", "worker.js"]) cpSync(join(here, file), join(site, file));
cpSync(join(here, "../node/embedder.mjs"), join(site, "embedder.mjs"));
cpSync(texts, join(site, "texts.json"));

const runtime = join(here, "node_modules/onnxruntime-web/dist");
const script = "ort.webgpu.bundle.min.mjs";
cpSync(join(runtime, script), join(site, "vendor/ort.mjs"));
// The script names the WebAssembly files that it loads.
const used = new Set(readFileSync(join(runtime, script), "utf8").match(/ort-wasm[a-z.-]+\.(wasm|mjs)/g));
for (const file of used) cpSync(join(runtime, file), join(site, "vendor", file));
cpSync(join(here, "node_modules/@huggingface/tokenizers/dist/tokenizers.mjs"), join(site, "vendor/tokenizers.mjs"));

for (const file of [target.file, weightsOf(manifest, target), manifest.tokenizer.file]) {
  cpSync(join(bundle, file), join(site, "model", file));
}
writeFileSync(join(site, "model/manifest.json"), JSON.stringify({ ...manifest, targets: [target] }));

const walk = (folder) =>
  readdirSync(folder).flatMap((entry) => {
    const path = join(folder, entry);
    return statSync(path).isDirectory() ? walk(path) : [relative(site, path).replaceAll("\\", "/")];
  });
const files = walk(site);
const bytes = files.reduce((sum, file) => sum + statSync(join(site, file)).size, 0);
// The service worker keeps these files, under a name that changes with the model.
writeFileSync(join(site, "files.json"), JSON.stringify({ version: target.sha256, files: ["./", ...files] }));
console.log(`site/: target ${name}, ${files.length} files, ${(bytes / 1e6).toFixed(1)} MB`);
