// Embeds texts with one target of a bundle. Node.js and browsers use this file; each passes its own ONNX Runtime.

// Most tokens of a batch, padding included.
const BATCH_TOKENS = 4096;

export class Embedder {
  // `manifest` is the content of manifest.json, `tokenizer` and `session` are open.
  constructor({ ort, manifest, tokenizer, session, target }) {
    Object.assign(this, { ort, manifest, tokenizer, session, target });
    this.maxLength = manifest.max_seq_length;
    this.padId = manifest.tokenizer.pad_id;
    this.special = this.specialTokens();
  }

  // Special tokens before and after a text, as ids.
  specialTokens() {
    const plain = [...this.tokenizer.encode("a", { add_special_tokens: false }).ids];
    const full = [...this.tokenizer.encode("a").ids];
    const start = plain.length ? full.indexOf(plain[0]) : 0;
    return { before: full.slice(0, start), after: full.slice(start + plain.length) };
  }

  // Ids of a text. @huggingface/tokenizers does not truncate: keep the special tokens at the end, cut the text.
  tokenize(text) {
    const ids = [...this.tokenizer.encode(text, { add_special_tokens: false }).ids];
    const { before, after } = this.special;
    return [...before, ...ids.slice(0, this.maxLength - before.length - after.length), ...after];
  }

  // One Float32Array of norm 1 for each text, in their order. `prompt` is the name of a prompt of the model.
  async embed(texts, { prompt } = {}) {
    const prefix = prompt ? (this.manifest.prompts[prompt] ?? "") : "";
    const rows = texts.map((text, position) => ({ position, ids: this.tokenize(prefix + text) }));
    rows.sort((a, b) => b.ids.length - a.ids.length); // little padding
    const vectors = new Array(texts.length);
    for (let start = 0; start < rows.length; ) {
      const count = Math.max(1, Math.floor(BATCH_TOKENS / rows[start].ids.length));
      const batch = rows.slice(start, start + count);
      (await this.run(batch.map((row) => row.ids))).forEach((vector, row) => (vectors[batch[row].position] = vector));
      start += count;
    }
    return vectors;
  }

  async run(batch) {
    const length = Math.max(...batch.map((ids) => ids.length));
    const arrays = { input_ids: this.padId, attention_mask: 0, token_type_ids: this.manifest.tokenizer.pad_type_id ?? 0 };
    const feeds = {};
    for (const name of this.manifest.inputs) {
      const data = new BigInt64Array(batch.length * length).fill(BigInt(arrays[name]));
      batch.forEach((ids, row) =>
        ids.forEach((id, column) => {
          const value = { input_ids: id, attention_mask: 1, token_type_ids: 0 }[name];
          data[row * length + column] = BigInt(value);
        }),
      );
      feeds[name] = new this.ort.Tensor("int64", data, [batch.length, length]);
    }
    const output = (await this.session.run(feeds))[this.manifest.output];
    return batch.map((_, row) => output.data.slice(row * this.target.dim, (row + 1) * this.target.dim));
  }
}

// The entry of a target such as "3x128" in a manifest.
export function findTarget(manifest, name) {
  const found = manifest.targets.find((entry) => `${entry.depth}x${entry.dim}` === name && entry.dtype === "fp32");
  if (found) return found;
  const held = manifest.targets.map((entry) => `${entry.depth}x${entry.dim}`).join(", ");
  throw new Error(`The bundle has no fp32 target ${name}. Choose one of: ${held}.`);
}

// The weights file that a target reads.
export function weightsOf(manifest, target) {
  return manifest.weights.find((entry) => entry.dtype === target.dtype).file;
}
