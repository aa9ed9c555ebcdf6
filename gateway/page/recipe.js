// A request as text to paste into a terminal or a Python file. Pure.
// Rules: never contains the key. Contains the images, because the page doesn't know their file names. curl
// reads the request from stdin, because an image is longer than a shell argument may be.

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
const SAVE = `python3 -c 'import base64, json
for i, image in enumerate(json.load(open("images.json"))["data"]):
    open(f"image-{i}.png", "wb").write(base64.b64decode(image["b64_json"]))'`;

export function asCurl(base, path, body, { withKey }) {
  const lines = [`curl -fsS ${quoted(base + path)}`];
  if (withKey) lines.push('-H "Authorization: Bearer $VISION_KEY"');
  lines.push("-H 'Content-Type: application/json'", "--data-binary @- > images.json <<'END'");
  return `${lines.join(" \\\n  ")}\n${JSON.stringify(body)}\nEND\n${SAVE}\n`;
}

export function asPython(base, body, { withKey }) {
  const { prompt, model, size, n, ...ours } = body;
  const known = Object.entries({ model, prompt, size, n }).filter(([, value]) => value !== undefined);
  const parts = known.map(([name, value]) => `    ${name}=${JSON.stringify(value)},`);
  if (Object.keys(ours).length) parts.push(`    extra_body=${JSON.stringify(ours)},`);
  return [
    "import base64",
    ...(withKey ? ["import os"] : []),
    "",
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url=${JSON.stringify(`${base}v1`)}, api_key=${withKey ? 'os.environ["VISION_KEY"]' : '"none"'})`,
    "answer = client.images.generate(",
    ...parts,
    ")",
    "for i, image in enumerate(answer.data):",
    '    with open(f"image-{i}.png", "wb") as file:',
    "        file.write(base64.b64decode(image.b64_json))",
    "",
  ].join("\n");
}

/** The API's address, for use outside this page. */
export const base = () => new URL(".", location.href.split("#")[0]).href;
