/*
 * openai-node. Files streamed from disk make the form chunked, with the files first.
 */
import fs from 'node:fs';

import OpenAI, { toFile } from 'openai';

import {
  dataUri, ENOUGH, PATIENCE_MS, imageFile, refused, secondsSince, serve, WORLD,
} from './protocol.mjs';

const client = new OpenAI({ baseURL: WORLD.base_url, apiKey: WORLD.key, maxRetries: 0 });
const greedy = { model: 'vlm-best', temperature: 0 };
const long = { ...greedy, response_format: responseFormat('numbers'), max_tokens: 4000 };
const generation = { model: 'image-gen', prompt: WORLD.prompt, seed: 0 };
const editing = { model: 'image-gen', prompt: WORLD.editing, strength: 0.5, seed: 1 };

function about(question, url = dataUri()) {
  const parts = [
    { type: 'text', text: WORLD[question] },
    { type: 'image_url', image_url: { url } },
  ];
  return [{ role: 'user', content: parts }];
}

function responseFormat(schema) {
  const json_schema = { name: schema, schema: WORLD[schema], strict: true };
  return { type: 'json_schema', json_schema };
}

const chatOf = (messages, fields = {}) =>
  client.chat.completions.create({ ...greedy, messages, ...fields });
const textOf = (answer) => ({ text: answer.choices[0].message.content });
const imagesOf = (answer) => ({
  images: answer.data.map((item) => item.b64_json),
  seeded: true,
});
const edit = async (fields) => imagesOf(await client.images.edit({ ...editing, ...fields }));
const stream = (name = 'circle') => fs.createReadStream(WORLD[name]);

const asked = () => ({
  ...greedy,
  input: [
    {
      role: 'user',
      content: [
        { type: 'input_text', text: WORLD.ask_caption },
        { type: 'input_image', image_url: dataUri(), detail: 'auto' },
      ],
    },
  ],
});

const scenarios = {
  async list_models() {
    const ids = [];
    for await (const model of client.models.list()) ids.push(model.id);
    return { ids };
  },

  retrieve_model: async () => ({ id: (await client.models.retrieve('schnell')).id }),

  chat: async () => textOf(await chatOf(about('ask_caption'))),

  chat_url: async () => textOf(await chatOf(about('ask_caption', WORLD.circle_url))),

  async chat_stream() {
    const pieces = [];
    for await (const chunk of await chatOf(about('ask_caption'), { stream: true })) {
      pieces.push(chunk.choices[0]?.delta?.content ?? '');
    }
    return { pieces };
  },

  async stream_usage() {
    const fields = { stream: true, stream_options: { include_usage: true } };
    let usage;
    for await (const chunk of await chatOf(about('ask_caption'), fields)) usage = chunk.usage;
    return usage;
  },

  async tools() {
    const report = { name: 'report', description: 'Report.', parameters: WORLD.shape };
    const answer = await chatOf(about('ask_objects'), {
      tools: [{ type: 'function', function: report }],
      tool_choice: 'required',
      parallel_tool_calls: false,
    });
    const [call] = answer.choices[0].message.tool_calls;
    return { name: call.function.name, arguments: JSON.parse(call.function.arguments) };
  },

  async json_schema() {
    const fields = { response_format: responseFormat('shape') };
    const answer = await client.chat.completions.parse({
      ...greedy,
      messages: about('ask_objects'),
      ...fields,
    });
    return { object: answer.choices[0].message.parsed };
  },

  responses: async () => ({ text: (await client.responses.create(asked())).output_text }),

  async responses_stream() {
    const pieces = [];
    for await (const event of await client.responses.create({ ...asked(), stream: true })) {
      if (event.type === 'response.output_text.delta') pieces.push(event.delta);
    }
    return { pieces };
  },

  generate: async () => imagesOf(await client.images.generate(generation)),

  generate_n: async () => imagesOf(await client.images.generate({ ...generation, n: 2 })),

  async generate_stream() {
    const partial = [];
    const images = [];
    const fields = { stream: true, partial_images: 2 };
    for await (const event of await client.images.generate({ ...generation, ...fields })) {
      const of = event.type === 'image_generation.partial_image' ? partial : images;
      of.push(event.b64_json);
    }
    return { partial, images };
  },

  edit_file: () => edit({ image: stream() }),

  edit_list: () => edit({ image: [stream()] }),

  async edit_mask() {
    const mask = await toFile(imageFile('mask'), 'mask.png', { type: 'image/png' });
    return edit({ image: stream(), mask, strength: 1, seed: 3 });
  },

  async edit_json() {
    const body = { ...editing, images: [{ image_url: dataUri() }] };
    return imagesOf(await client.post('/images/edits', { body }));
  },

  unknown_model: () => refused(() => chatOf(about('ask_caption'), { model: 'no/such' })),

  bad_size: () => refused(() => client.images.generate({ ...generation, size: '1024x1024' })),

  wrong_key: () => refused(() => client.withOptions({ apiKey: 'wrong' }).models.retrieve('schnell')),

  too_large: () => refused(() => chatOf(about('ask_caption', dataUri('large')))),

  too_large_form: () => refused(() => edit({ image: stream('large') })),

  too_many: () => refused(() => edit({ image: [stream(), stream()] })),

  time_out() {
    const asked = { ...long, messages: about('ask_objects') };
    return refused(() => client.chat.completions.create(asked, { timeout: PATIENCE_MS }));
  },

  async abort() {
    const began = performance.now();
    const pieces = [];
    const fields = { ...long, stream: true };
    for await (const chunk of await chatOf(about('ask_objects'), fields)) {
      pieces.push(chunk.choices[0]?.delta?.content ?? '');
      if (pieces.length === ENOUGH) break; // closes the connection
    }
    return { pieces, after_s: secondsSince(began) };
  },
};

await serve(scenarios);
