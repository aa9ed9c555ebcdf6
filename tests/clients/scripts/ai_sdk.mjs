/*
 * The AI SDK with one of its providers: `compatible` (/v1/chat/completions) or `openai`
 * (/v1/responses).
 */
import { createOpenAI } from '@ai-sdk/openai';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { generateImage, generateText, jsonSchema, Output, streamText, tool } from 'ai';

import {
  ENOUGH, PATIENCE_MS, imageFile, refused, secondsSince, serve, WORLD,
} from './protocol.mjs';

globalThis.AI_SDK_LOG_WARNINGS = false;
const which = process.argv[2];

function provider(apiKey = WORLD.key) {
  const settings = { baseURL: WORLD.base_url, apiKey };
  if (which === 'openai') return createOpenAI(settings);
  return createOpenAICompatible({
    ...settings,
    name: 'vision',
    includeUsage: true,
    supportsStructuredOutputs: true,
    // The gateway fetches URLs. Otherwise the SDK would, which can't reach a LAN.
    supportedUrls: () => ({ 'image/*': [/^https?:/] }),
  });
}

const vision = provider();
const name = which === 'openai' ? 'openai' : 'vision'; // the key of provider options
const greedy = { model: vision('vlm-best'), temperature: 0, maxRetries: 0 };
const painter = (of = vision) => (which === 'openai' ? of.image : of.imageModel)('image-gen');
const long = {
  ...greedy,
  output: Output.object({ schema: jsonSchema(WORLD.numbers), name: 'numbers' }),
  maxOutputTokens: 4000,
};

function about(question, image = imageFile()) {
  const text = { type: 'text', text: WORLD[question] };
  return [{ role: 'user', content: [text, { type: 'image', image }] }];
}

async function draw(prompt, options, fields = {}) {
  const answer = await generateImage({
    model: painter(),
    prompt,
    maxRetries: 0,
    providerOptions: { [name]: options },
    ...fields,
  });
  return {
    images: answer.images.map((image) => image.base64),
    seeded: which !== 'openai', // that provider drops unknown options
  };
}

const edit = (images, mask) =>
  draw(
    { text: WORLD.editing, images, ...(mask && { mask }) },
    mask ? { seed: 3 } : { strength: 0.5, seed: 1 },
  );

/* The chunks of a stream, and its usage; throws the stream's error. */
async function streamed(request, enough = Infinity) {
  let error;
  const pieces = [];
  const result = streamText({ ...request, onError: (event) => (error = event.error) });
  for await (const piece of result.textStream) {
    pieces.push(piece);
    if (pieces.length === enough) return { pieces };
  }
  if (error) throw error;
  return { pieces, usage: await result.usage };
}

const text = async (fields) => ({ text: (await generateText({ ...greedy, ...fields })).text });
const captions = () => streamed({ ...greedy, messages: about('ask_caption') });

const scenarios = {
  chat: () => text({ messages: about('ask_caption') }),

  chat_url: () => text({ messages: about('ask_caption', new URL(WORLD.circle_url)) }),

  chat_stream: captions,

  async stream_usage() {
    const { usage } = await captions();
    return { prompt_tokens: usage.inputTokens, completion_tokens: usage.outputTokens };
  },

  async tools() {
    const report = tool({ description: 'Report.', inputSchema: jsonSchema(WORLD.shape) });
    const answer = await generateText({
      ...greedy,
      messages: about('ask_objects'),
      tools: { report },
      toolChoice: 'required',
    });
    const [call] = answer.toolCalls;
    return { name: call.toolName, arguments: call.input };
  },

  async json_schema() {
    const output = Output.object({ schema: jsonSchema(WORLD.shape), name: 'shape' });
    const answer = await generateText({ ...greedy, messages: about('ask_objects'), output });
    return { object: answer.output };
  },

  responses: () => text({ messages: about('ask_caption') }),

  responses_stream: captions,

  generate: () => draw(WORLD.prompt, { seed: 0 }),

  generate_n: () => draw(WORLD.prompt, { seed: 0 }, { n: 2, maxImagesPerCall: 2 }),

  edit_file: () => edit([imageFile()]),

  edit_list: () => edit([imageFile()]),

  edit_mask: () => edit([imageFile()], imageFile('mask')),

  unknown_model: () => refused(() => text({ model: vision('no/such'), prompt: 'x' })),

  bad_size: () => refused(() => draw(WORLD.prompt, {}, { size: '1024x1024' })),

  wrong_key: () => refused(() => text({ model: provider('wrong')('vlm-best'), prompt: 'x' })),

  too_large: () => refused(() => text({ messages: about('ask_caption', imageFile('large')) })),

  too_large_form: () => refused(() => edit([imageFile('large')])),

  too_many: () => refused(() => edit([imageFile(), imageFile()])),

  time_out() {
    const abortSignal = AbortSignal.timeout(PATIENCE_MS);
    return refused(() => generateText({ ...long, messages: about('ask_objects'), abortSignal }));
  },

  async abort() {
    const began = performance.now();
    const leaving = new AbortController();
    const request = { ...long, messages: about('ask_objects'), abortSignal: leaving.signal };
    const { pieces } = await streamed(request, ENOUGH);
    leaving.abort();
    return { pieces, after_s: secondsSince(began) };
  },
};

await serve(scenarios);
