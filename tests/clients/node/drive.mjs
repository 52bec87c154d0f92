// Runs calls of the published JavaScript client: one JSON object a line in, one a line out.
//
// In: `operation`, `params`, `url`, `key`, and `picture`, a path, where the operation takes one; names as in Python.
// Out: `statuses` of every HTTP answer (a repeat by the client would show), the JSON that was `sent`, and either
// `images` or `error`.

import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";

import { Livepeer } from "@livepeer/ai";
import { HTTPClient } from "@livepeer/ai/lib/http.js";
import * as errors from "@livepeer/ai/models/errors/index.js";

const KINDS = ["HTTPError", "HTTPValidationError", "SDKError"];

function camel(name) {
  return name.replace(/_([a-z])/g, (_, letter) => letter.toUpperCase());
}

// What the client returned or threw.
async function answer(call) {
  const statuses = [];
  const sent = [];
  const httpClient = new HTTPClient()
    .addHook("beforeRequest", async (request) => void sent.push(await jsonBody(request)))
    .addHook("response", (response) => void statuses.push(response.status));
  const client = new Livepeer({ httpBearer: call.key, serverURL: call.url, httpClient });
  let outcome;
  try {
    outcome = { images: await run(client, call) };
  } catch (error) {
    outcome = { error: described(error) };
  }
  return { statuses, sent: sent[0] ?? null, ...outcome };
}

// The result's images, as the client has parsed them.
async function run(client, call) {
  const request = Object.fromEntries(Object.entries(call.params).map(([name, value]) => [camel(name), value]));
  if (call.picture) request.image = new Blob([readFileSync(call.picture)], { type: "image/jpeg" });
  const response = await client.generate[camel(call.operation)](request);
  return (call.operation === "image_to_video" ? response.videoResponse : response.imageResponse).images;
}

// The error's exact class, its text, and what a program finds in it.
function described(error) {
  const kind = KINDS.find((name) => error.constructor === errors[name]);
  return {
    class: kind ?? `none of the client's: ${error.constructor.name}`,
    text: `${error.message}${error.cause ? ` (${error.cause})` : ""}`,
    data: error.data$ ?? null,
    status: error.statusCode ?? null,
    body: error.body ?? null,
  };
}

// What a request says as JSON; null for a form.
async function jsonBody(request) {
  const json = request.headers.get("content-type") === "application/json";
  return json ? await request.clone().json() : null;
}

for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(`${JSON.stringify(await answer(JSON.parse(line)))}\n`);
}
process.exit(); // a body that was refused before its end keeps Node 18 alive
