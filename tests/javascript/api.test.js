import assert from "node:assert/strict"
import { describe, test } from "node:test"

import {
  Api,
  findMetadata,
  isTransientStatus,
  readRetryAfter,
  Refused,
  Unreachable,
} from "../../service/web/api.js"
import { Session } from "../../service/web/session.js"
import { Assay, refuse } from "./support/assay.js"
import { Clock, until } from "./support/clocks.js"
import { findClosedPort, readBody, serve } from "./support/servers.js"

const NEVER = new AbortController().signal

/**
 * Return the page's client of a real server.
 * @param {import("node:test").TestContext} context
 * @param {(request: import("./support/servers.js").Request,
 *          response: import("./support/servers.js").Response) => unknown} answer
 * @param {string} path where a proxy has put the API
 */
async function connect(context, answer, path = "/") {
  const root = new URL(path, await serve(context, answer))
  const clock = new Clock()
  const session = new Session()
  session.key = "assay_key"
  return { api: new Api(session, root, undefined, clock), clock, session }
}

describe("a request", () => {
  test("has the key, and goes to the path behind a proxy", async (context) => {
    const { api } = await connect(
      context,
      ({ url, method, headers }, response) => {
        response.end(JSON.stringify({ url, method, key: headers.authorization }))
      },
      "/files/of/assay/",
    )
    assert.deepEqual(await api.ask("GET", "files?limit=1"), {
      url: "/files/of/assay/files?limit=1",
      method: "GET",
      key: "Bearer assay_key",
    })
  })

  test("has a body of JSON and the headers of the caller", async (context) => {
    const { api } = await connect(context, async (request, response) => {
      const { "content-type": type, "idempotency-key": once } = request.headers
      response.end(JSON.stringify({ type, once, body: await readBody(request) }))
    })
    const body = { filename: "größe €.jpg", size: 0 }
    const headers = { "Idempotency-Key": "abc" }
    const answer = await api.ask("POST", "files", { body, headers })
    assert.equal(answer.type, "application/json")
    assert.equal(answer.once, "abc")
    assert.deepEqual(JSON.parse(answer.body), body)
  })

  test("without a body has no content type", async (context) => {
    const { api } = await connect(context, async (request, response) => {
      const { "content-type": type = null } = request.headers
      response.end(JSON.stringify([type, await readBody(request)]))
    })
    assert.deepEqual(await api.ask("POST", "files/1/upload"), [null, ""])
  })

  test("returns null for 204", async (context) => {
    const { api } = await connect(context, (_, response) => response.writeHead(204).end())
    assert.equal(await api.ask("DELETE", "files/1"), null)
  })

  test("throws the problem document of a refusal", async (context) => {
    const problem = {
      type: "urn:assay:problem:invalid-request",
      title: "Invalid request",
      detail: "size: must be at most 5",
      errors: [{ field: "size", detail: "must be at most 5" }],
    }
    const { api } = await connect(context, (_, response) => {
      response.writeHead(422, { "Content-Type": "application/problem+json" })
      response.end(JSON.stringify(problem))
    })
    const error = await api.ask("POST", "files", { body: {} }).catch((thrown) => thrown)
    assert.ok(error instanceof Refused)
    assert.equal(error.status, 422)
    assert.equal(error.kind, "invalid-request")
    assert.equal(error.message, "size: must be at most 5")
    assert.deepEqual(error.problem, problem)
    assert.equal(error.isTransient, false)
  })

  for (const text of ["<html>Bad Gateway</html>", "", "null", '"text"', "502"]) {
    test(`accepts ${text || "an empty body"} as the error of a proxy`, async (context) => {
      const { api } = await connect(context, (_, response) => response.writeHead(502).end(text))
      const error = await api.ask("GET", "files").catch((thrown) => thrown)
      assert.ok(error instanceof Refused)
      assert.deepEqual(error.problem, {})
      assert.equal(error.kind, "")
      assert.match(error.message, /502/)
      assert.equal(error.isTransient, true)
    })
  }

  test("throws Unreachable if no server listens", async (context) => {
    const { api, session } = await connect(context, () => {})
    api.root = await findClosedPort()
    await assert.rejects(api.ask("GET", "files"), Unreachable)
    assert.equal(session.isLost, false)
  })

  test("throws Unreachable if the response is cut", async (context) => {
    const { api } = await connect(context, (_, response) => {
      response.writeHead(200, { "Content-Length": 1000 })
      response.write('{"files": [', () => response.destroy())
    })
    await assert.rejects(api.ask("GET", "files"), Unreachable)
  })

  test("throws Unreachable if another server answers with a page", async (context) => {
    const { api } = await connect(context, (_, response) => response.end("<html>Log in</html>"))
    await assert.rejects(api.ask("GET", "files"), Unreachable)
  })

  test("throws the reason of the signal if it is aborted", async (context) => {
    const controller = new AbortController()
    const reason = new Error("paused by the user")
    const { api } = await connect(context, () => controller.abort(reason))
    const { signal } = controller
    await assert.rejects(api.ask("GET", "files", { signal }), reason)
    await assert.rejects(api.ask("GET", "files", { signal }), reason)
  })

  test("loses the key at a 401", async (context) => {
    const { api, session } = await connect(context, (_, response) => response.writeHead(401).end())
    await assert.rejects(api.ask("GET", "files"), { status: 401 })
    assert.equal(session.isLost, true)
  })

  test("keeps a key that was entered while the old one was refused", async (context) => {
    const { api, session } = await connect(context, (_, response) => {
      session.open("assay_other", false)
      response.writeHead(401).end()
    })
    await assert.rejects(api.ask("GET", "files"), { status: 401 })
    assert.equal(session.isLost, false)
    assert.equal(session.key, "assay_other")
  })
})

describe("a repeated request", () => {
  test("waits as long as `Retry-After` says", async (context) => {
    let requests = 0
    const { api, clock } = await connect(context, (_, response) => {
      if (++requests === 1) response.writeHead(503, { "Retry-After": "5" }).end()
      else if (requests === 2) response.writeHead(429).end()
      else if (requests === 3) response.destroy()
      else response.end("[1]")
    })
    assert.deepEqual(await api.retry("GET", "files", { signal: NEVER }), [1])
    assert.deepEqual(clock.pauses, [5000, 500, 1000])
  })

  test("waits until the date that `Retry-After` says", async (context) => {
    let requests = 0
    const { api, clock } = await connect(context, (_, response) => {
      const date = new Date(Date.now() + 50_000).toUTCString()
      if (++requests === 1) response.writeHead(503, { "Retry-After": date }).end()
      else response.end("[1]")
    })
    await api.retry("GET", "files", { signal: NEVER })
    const [milliseconds] = clock.pauses
    assert.ok(milliseconds > 1000 && milliseconds <= 50_000, `${milliseconds} ms`)
  })

  for (const status of [400, 403, 404, 409, 410, 413, 422, 501]) {
    test(`is not sent again after ${status}`, async () => {
      const server = new Assay({ "GET /files": { status } })
      await assert.rejects(server.api.retry("GET", "files", { signal: NEVER }), { status })
      assert.equal(server.received.length, 1)
    })
  }

  test("waits at a 401 for the next key", async () => {
    const server = new Assay({ "GET /files": [{ status: 503 }, { status: 401 }, { json: [1] }] })
    const said = /** @type {unknown[]} */ ([])
    const options = { signal: NEVER, say: (/** @type {unknown} */ waiting) => said.push(waiting) }
    const done = server.api.retry("GET", "files", options)
    await until(() => server.session.isLost)
    assert.equal(said.at(-1), null)
    server.session.open("assay_other", false)
    assert.deepEqual(await done, [1])
    assert.deepEqual(
      server.received.map(({ headers }) => headers.get("Authorization")),
      ["Bearer assay_key", "Bearer assay_key", "Bearer assay_other"],
    )
  })

  test("ends while it waits for the next key, if it is aborted", async () => {
    const server = new Assay({ "GET /files": { status: 401 } })
    const controller = new AbortController()
    const reason = new Error("paused by the user")
    const done = server.api.retry("GET", "files", { signal: controller.signal })
    await until(() => server.session.isLost)
    controller.abort(reason)
    await assert.rejects(done, reason)
  })
})

describe("the metadata of a file", () => {
  test("is null if the server has no such file", async () => {
    const server = new Assay({ "GET /files/1/metadata": refuse(404, "not-found") })
    assert.equal(await findMetadata(server.api, "1", { signal: NEVER }), null)
  })

  test("is not null for another refusal, which is thrown", async () => {
    const server = new Assay({ "GET /files/1/metadata": refuse(403, "forbidden") })
    await assert.rejects(findMetadata(server.api, "1", { signal: NEVER }), { kind: "forbidden" })
  })
})

test("statuses are transient if the same request may succeed later", () => {
  const transient = [408, 429, 500, 502, 503, 504, 507, 520]
  const final = [200, 204, 301, 400, 401, 403, 404, 405, 409, 410, 412, 413, 422, 428, 451, 501]
  assert.deepEqual(transient.filter(isTransientStatus), transient)
  assert.deepEqual(final.filter(isTransientStatus), [])
})

test("the refusal of a damaged file is not transient, although its status is", () => {
  const type = "urn:assay:problem:file-damaged"
  assert.equal(new Refused(502, { type }).isTransient, false)
  assert.equal(new Refused(502, {}).isTransient, true)
})

test("the words of a refusal are its detail, its title or its status", () => {
  const title = "Conflict"
  assert.equal(new Refused(409, { title, detail: "It is gone." }).message, "It is gone.")
  assert.equal(new Refused(409, { title }).message, "Conflict")
  assert.match(new Refused(409, {}).message, /409/)
  assert.equal(new Refused(409, { type: "about:blank" }).kind, "about:blank")
})

describe("Retry-After (RFC 9110, 10.2.3)", () => {
  const now = Date.parse("1994-11-06T08:47:37Z")

  test("is a number of seconds", () => {
    assert.equal(readRetryAfter("120", now), 120)
    assert.equal(readRetryAfter("0", now), 0)
    assert.equal(readRetryAfter("007", now), 7)
  })

  for (const date of [
    "Sun, 06 Nov 1994 08:49:37 GMT",
    "Sunday, 06-Nov-94 08:49:37 GMT",
    "Sun Nov  6 08:49:37 1994",
  ]) {
    test(`is a date such as ${date}`, (context) => {
      const zone = process.env.TZ
      context.after(() => (zone === undefined ? delete process.env.TZ : (process.env.TZ = zone)))
      for (process.env.TZ of ["UTC", "Asia/Tokyo", "America/New_York"]) {
        assert.equal(readRetryAfter(date, now), 120, process.env.TZ)
      }
    })
  }

  test("is 0 without a header, after the date, and for what is neither", () => {
    assert.equal(readRetryAfter(null, now), 0)
    assert.equal(readRetryAfter("Fri, 31 Dec 1993 23:59:59 GMT", now), 0)
    for (const value of ["", "soon", "-5", "1.5", "120 s", "Infinity", "NaN"]) {
      assert.equal(readRetryAfter(value, now), 0, value)
    }
  })
})
