// Usage: node embed.mjs BUNDLE TARGET [PROMPT] < texts.json > vectors.json
// texts.json is a list of strings. The graph reads the weights file of the bundle's folder.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Tokenizer } from "@huggingface/tokenizers";
import * as ort from "onnxruntime-node";
import { Embedder, findTarget } from "./embedder.mjs";

const [folder, name, prompt] = process.argv.slice(2);
if (!folder || !name) {
  console.error("usage: node embed.mjs BUNDLE TARGET [PROMPT] < texts.json > vectors.json");
  process.exit(2);
}
const read = (file) => JSON.parse(readFileSync(file, "utf8"));
const manifest = read(join(folder, "manifest.json"));
const target = findTarget(manifest, name);
const tokenizer = new Tokenizer(read(join(folder, manifest.tokenizer.file)), {});
const session = await ort.InferenceSession.create(join(folder, target.file));
const embedder = new Embedder({ ort, manifest, tokenizer, session, target });
const vectors = await embedder.embed(read(0), { prompt });
console.log(JSON.stringify(vectors.map((vector) => Array.from(vector))));
