// A program that declares, uploads, completes and downloads with Node's own fetch.
//
// The arguments are the API's URL and the file to send. The environment variable ASSAY_KEY has the
// key. The program prints the id of each file.

import { createHash } from "node:crypto";
import { createReadStream, readFileSync } from "node:fs";

const [, , api, path] = process.argv;
const authorization = { Authorization: `Bearer ${process.env.ASSAY_KEY}` };
const body = readFileSync(path);
const digest = (bytes) => createHash("sha256").update(bytes).digest("hex");

async function send(url, status, options = {}) {
  const answer = await fetch(url, options);
  const text = await answer.text();
  if (answer.status !== status) {
    throw new Error(`${options.method ?? "GET"} ${answer.status} ${text}`);
  }
  return text && JSON.parse(text);
}

function sendJson(route, status, document) {
  const headers = { ...authorization, "Content-Type": "application/json" };
  return send(api + route, status, { method: "POST", headers, body: JSON.stringify(document) });
}

// Download the file, and throw if its digest differs from that of the sent bytes.
async function check(id) {
  const answer = await fetch(`${api}/files/${id}`, { headers: authorization });
  const bytes = Buffer.from(await answer.arrayBuffer());
  if (answer.status !== 200 || digest(bytes) !== digest(body)) {
    throw new Error(`the download of ${id}: ${answer.status}, ${bytes.length} bytes`);
  }
  console.log(id);
}

// Send POST /files/upload, and check the download.
async function stream(content, more = {}) {
  const url = `${api}/files/upload?filename=node-stream`;
  const options = { method: "POST", headers: authorization, body: content, ...more };
  const file = await send(url, 201, options);
  await check(file.id);
}

// Declare a file, send it to the store, complete it with its digest, and check the download.
async function declareAndPut() {
  const type = "application/octet-stream";
  const about = { filename: "node-put", size: body.length, content_type: type };
  const { file, upload } = await sendJson("/files", 201, about);
  await send(upload.url, 200, { method: upload.method, headers: upload.headers, body });
  await sendJson(`/files/${file.id}/complete?wait=20`, 200, { sha256: digest(body) });
  await sendJson(`/files/${file.id}/complete`, 409, { sha256: "0".repeat(64) });
  await check(file.id);
}

const form = new FormData();
form.append("file", new Blob([body]), "node-form");
// Bytes with a length, a stream in chunks, and a form.
await stream(body);
await stream(createReadStream(path), { duplex: "half" });
await stream(form);
await declareAndPut();
