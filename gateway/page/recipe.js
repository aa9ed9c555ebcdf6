// A request as something to paste into a terminal or a Python file. Pure.
// Rules: the key is never in it; pictures are, as the page can't know their file names. The request goes in
// by curl's stdin, as a picture is longer than a shell lets an argument be.

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
const SAVE = `python3 -c 'import base64, json
for i, picture in enumerate(json.load(open("drawn.json"))["data"]):
    open(f"picture-{i}.png", "wb").write(base64.b64decode(picture["b64_json"]))'`;

export function asCurl(base, path, body, { withKey }) {
  const lines = [`curl -fsS ${quoted(base + path)}`];
  if (withKey) lines.push('-H "Authorization: Bearer $VISION_KEY"');
  lines.push("-H 'Content-Type: application/json'", "--data-binary @- > drawn.json <<'END'");
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
    "for i, picture in enumerate(answer.data):",
    '    with open(f"picture-{i}.png", "wb") as file:',
    "        file.write(base64.b64decode(picture.b64_json))",
    "",
  ].join("\n");
}

/** Where the API is, for who is not on this page. */
export const base = () => new URL(".", location.href.split("#")[0]).href;
