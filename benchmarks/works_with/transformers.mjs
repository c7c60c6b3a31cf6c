// Usage: node transformers.mjs FOLDER < texts.json: embed with the layout "transformers.js" of `ese-deploy pack`.
import { readFileSync } from "node:fs";
import { basename, dirname } from "node:path";
import { AutoModel, AutoTokenizer, env, Tensor } from "@huggingface/transformers";

const folder = process.argv[2];
env.localModelPath = `${dirname(folder)}/`;
env.allowRemoteModels = false;
const tokenizer = await AutoTokenizer.from_pretrained(basename(folder));
const model = await AutoModel.from_pretrained(basename(folder), { dtype: "fp32" });

// `truncation: true` of transformers.js also cuts the closing special token off, which changes the vector.
const most = tokenizer.model_max_length;
const cut = (ids) => (ids.length > most ? [...ids.slice(0, most - 1), ids.at(-1)] : ids);
const rows = JSON.parse(readFileSync(0, "utf8")).map((text) => cut(tokenizer.encode(text)));
const length = Math.max(...rows.map((ids) => ids.length));
const tensor = (value) => {
  const data = rows.flatMap((ids) => Array.from({ length }, (_, place) => BigInt(value(ids, place))));
  return new Tensor("int64", data, [rows.length, length]);
};
const { sentence_embedding } = await model({
  input_ids: tensor((ids, place) => ids[place] ?? tokenizer.pad_token_id),
  attention_mask: tensor((ids, place) => Number(place < ids.length)),
  token_type_ids: tensor(() => 0),
});
console.log(JSON.stringify(sentence_embedding.tolist()));
