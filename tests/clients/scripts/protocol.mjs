/*
 * protocol.py for Node: reads scenario names and writes results, line by line.
 */
import fs from 'node:fs';
import readline from 'node:readline';

export const WORLD = JSON.parse(fs.readFileSync(process.argv.at(-1), 'utf8'));
export const ENOUGH = 5; // chunks after which a client leaves
export const PATIENCE_MS = 1500; // timeout of the client

/* Runs the function named by each line of standard input. */
export async function serve(scenarios) {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    let answer;
    try {
      answer = { seen: await scenarios[line.trim()]() };
    } catch (error) {
      answer = { failed: `${error?.stack}\n${JSON.stringify(error)?.slice(0, 2000)}` };
    }
    process.stdout.write(JSON.stringify(answer) + '\n');
  }
}

/* The error that a call must raise, as the user sees it. */
export async function refused(call) {
  const began = performance.now();
  let answer;
  try {
    answer = await call();
  } catch (error) {
    return seenOf(error, began);
  }
  throw new Error(`no error, but a response: ${JSON.stringify(answer)?.slice(0, 300)}`);
}

function seenOf(error, began) {
  const kind = `${error.constructor.name} ${error.name}`;
  const status = error.status ?? error.statusCode ?? null;
  return { kind, message: error.message, status, after_s: secondsSince(began) };
}

export const secondsSince = (began) => (performance.now() - began) / 1000;

export const imageFile = (name = 'circle') => fs.readFileSync(WORLD[name]);
export const base64 = (name = 'circle') => imageFile(name).toString('base64');
export const dataUri = (name = 'circle') => `data:image/png;base64,${base64(name)}`;
