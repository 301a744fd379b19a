// The official JavaScript client of OpenAI against `backstop outage serve`: what it parses and what it throws.
//
//     node tests/sdks/javascript.mjs target/debug/backstop NODE_MODULES
//
// Retries of the client are off: each failure has to show itself.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { createRequire } from "node:module";
import path from "node:path";
import readline from "node:readline";

const [binary, modules] = process.argv.slice(2);
const require = createRequire(path.resolve(modules, "index.js"));
const sdk = require("openai");
const OpenAI = sdk.OpenAI;

const server = spawn(binary, ["outage", "serve", "--port", "0", "-o", "jsonl", "--quiet"], {
  stdio: ["ignore", "pipe", "inherit"],
});
const ended = once(server, "exit");
const [line] = await once(readline.createInterface({ input: server.stdout }), "line");
const { url, control } = JSON.parse(line);

async function only(rule) {
  const order = { clear: true, ...(rule && { add: rule }) };
  const answer = await fetch(control, { method: "POST", body: JSON.stringify(order) });
  if (!answer.ok) throw new Error(await answer.text());
}

let passed = 0;
let failed = 0;

function say(good, name, what) {
  good ? passed++ : failed++;
  console.log(`${good ? "ok  " : "FAIL"} openai (JavaScript): ${name}: ${String(what).slice(0, 100)}`);
}

async function answers(name, rule, call, expected) {
  await only(rule);
  try {
    const said = await call();
    say(expected(said), name, JSON.stringify(said));
  } catch (error) {
    say(false, name, `${error.constructor.name}: ${error.message}`);
  }
}

async function throws(name, rule, call, type, holds = () => true) {
  await only(rule);
  try {
    say(false, name, `nothing thrown, but ${JSON.stringify(await call())}`);
  } catch (error) {
    say(error.constructor === type && holds(error), name, `${error.constructor.name}: ${error.message}`);
  }
}

const settings = { baseURL: `${url}/v1`, apiKey: "any", maxRetries: 0 };
const client = new OpenAI({ ...settings, timeout: 5000 });
const hasty = new OpenAI({ ...settings, timeout: 500 });
const words = "the quick brown fox";
const saying = { fault: "answer", text: words };
const ask = { model: "gpt-6-sol", messages: [{ role: "user", content: "Hello." }] };
const schema = {
  type: "object",
  required: ["city"],
  additionalProperties: false,
  properties: { city: { type: "string" } },
};

async function text(of = client) {
  return (await of.chat.completions.create(ask)).choices[0].message.content;
}

async function stream() {
  let said = "";
  for await (const chunk of await client.chat.completions.create({ ...ask, stream: true })) {
    said += chunk.choices[0]?.delta?.content ?? "";
  }
  return said;
}

async function events() {
  const kinds = [];
  for await (const event of await client.responses.create({ model: "gpt-6-sol", input: "Hello.", stream: true })) {
    kinds.push(event.type);
  }
  return kinds;
}

const isCall = (call) => call.name === "weather" && "city" in JSON.parse(call.arguments);
await answers("chat", saying, text, (said) => said === words);
await answers("chat stream", saying, stream, (said) => said === words);
await answers(
  "chat tool",
  { fault: "loop" },
  async () => {
    const tools = [{ type: "function", function: { name: "weather", parameters: schema } }];
    return (await client.chat.completions.create({ ...ask, tools })).choices[0].message.tool_calls[0].function;
  },
  isCall,
);
await answers(
  "responses",
  saying,
  async () => (await client.responses.create({ model: "gpt-6-sol", input: "Hello." })).output_text,
  (said) => said === words,
);
await answers("responses stream", saying, events, (kinds) => kinds.at(-1) === "response.completed");
await answers(
  "responses tool in a stream",
  { fault: "loop" },
  async () => {
    const tools = [{ type: "function", name: "weather", parameters: schema, strict: true }];
    const stream = client.responses.stream({ model: "gpt-6-sol", input: "Hello.", tools });
    return (await stream.finalResponse()).output[0];
  },
  isCall,
);
await answers(
  "models",
  undefined,
  async () => (await client.models.list()).data.map((model) => model.id),
  (ids) => ids.includes("gpt-6-sol"),
);
for (const [fault, status, type] of [
  ["overloaded", 503, sdk.InternalServerError],
  ["server-error", 500, sdk.InternalServerError],
  ["unavailable", 503, sdk.InternalServerError],
  ["gateway-timeout", 504, sdk.InternalServerError],
  ["rate-limited", 429, sdk.RateLimitError],
  ["unauthorized", 401, sdk.AuthenticationError],
  ["forbidden", 403, sdk.PermissionDeniedError],
  ["out-of-credit", 429, sdk.RateLimitError],
  ["no-such-model", 404, sdk.NotFoundError],
  ["too-long", 400, sdk.BadRequestError],
]) {
  const holds = (error) => error.status === status && error.requestID.startsWith("req_");
  await throws(`unary ${fault}`, { fault }, text, type, holds);
  await throws(`stream ${fault}`, { fault }, stream, type, holds);
}
await throws("hang", { fault: "hang" }, () => text(hasty), sdk.APIConnectionTimeoutError);
await throws("error event", { fault: "error-mid-stream" }, stream, sdk.APIError);
await throws("malformed", { fault: "malformed" }, text, SyntaxError);
const nobody = new OpenAI({ ...settings, baseURL: "http://127.0.0.1:1/v1" });
await throws("nobody there", undefined, () => text(nobody), sdk.APIConnectionError);

server.kill("SIGTERM");
const [code] = await ended;
if (code !== 0) {
  console.log(`FAIL the server ended with ${code}`);
  failed++;
}
console.log(`${passed + failed} cases of openai (JavaScript), ${failed} failed`);
process.exit(failed || !passed ? 1 : 0);
