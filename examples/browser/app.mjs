// Loads one target of a bundle, embeds the texts once, and searches them while one types.
import { Embedder } from "./embedder.mjs";
import * as ort from "./vendor/ort.mjs";
import { Tokenizer } from "./vendor/tokenizers.mjs";

const RESULTS = 8;
const PIECE = 16; // texts between two updates of the progress bar
const [query, status, progress, results] = ["query", "status", "progress", "results"].map((id) =>
  document.getElementById(id),
);
const json = async (file) => (await fetch(file)).json();
const bytes = async (file) => new Uint8Array(await (await fetch(file)).arrayBuffer());

// WebAssembly is the default. ?engine=webgpu selects the GPU.
const engine = new URLSearchParams(location.search).get("engine") ?? "wasm";

async function open() {
  ort.env.wasm.wasmPaths = new URL("vendor/", location.href).href;
  const manifest = await json("model/manifest.json");
  const target = manifest.targets[0];
  const weights = manifest.weights.find((entry) => entry.dtype === target.dtype).file;
  const graph = await bytes(`model/${target.file}`);
  const session = await ort.InferenceSession.create(graph, {
    executionProviders: [engine],
    externalData: [{ path: weights, data: await bytes(`model/${weights}`) }],
  });
  const tokenizer = new Tokenizer(await json(`model/${manifest.tokenizer.file}`), {});
  return new Embedder({ ort, manifest, tokenizer, session, target });
}

async function embedAll(embedder, texts) {
  const vectors = [];
  for (let start = 0; start < texts.length; start += PIECE) {
    vectors.push(...(await embedder.embed(texts.slice(start, start + PIECE))));
    progress.value = vectors.length / texts.length;
    status.textContent = `Embedding the texts: ${vectors.length} of ${texts.length}`;
  }
  return vectors;
}

const dot = (a, b) => a.reduce((sum, value, index) => sum + value * b[index], 0);

function show(texts, scores) {
  const order = scores.map((_, row) => row).sort((a, b) => scores[b] - scores[a]);
  const items = order.slice(0, RESULTS).map((row) => {
    const item = document.createElement("li");
    const score = document.createElement("b");
    score.textContent = scores[row].toFixed(2);
    item.append(score, texts[row]);
    return item;
  });
  results.replaceChildren(...items);
}

async function main() {
  const embedder = await open();
  const texts = await json("texts.json");
  const vectors = await embedAll(embedder, texts);
  const { depth, dim } = embedder.target;
  const ready = `Target ${depth}x${dim}, ${texts.length} texts, ${engine}`;
  progress.hidden = true;
  status.textContent = ready;
  query.disabled = false;
  query.placeholder = "Type a question or a few words";
  query.focus();
  window.embedder = embedder; // for tests, and for the console

  let busy = false;
  let waiting = false;
  const search = async () => {
    waiting = true;
    if (busy) return; // the running search starts again with what is typed now
    busy = true;
    while (waiting) {
      waiting = false;
      const text = query.value.trim();
      if (!text) {
        results.replaceChildren();
        status.textContent = ready;
        continue;
      }
      const start = performance.now();
      const prompt = "query" in embedder.manifest.prompts ? "query" : undefined;
      const [vector] = await embedder.embed([text], { prompt });
      const scores = vectors.map((one) => dot(one, vector));
      status.textContent = `${ready}, ${(performance.now() - start).toFixed(0)} ms`;
      show(texts, scores);
    }
    busy = false;
  };
  query.addEventListener("input", search);
  if ("serviceWorker" in navigator) {
    await navigator.serviceWorker.register("worker.js");
    await navigator.serviceWorker.ready;
    document.body.dataset.offline = "ready";
  }
}

main().catch((error) => {
  progress.hidden = true;
  status.textContent = `The model did not load: ${error.message}`;
});
