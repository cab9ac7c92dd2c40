import assert from "node:assert/strict"
import { afterEach, describe, mock, test } from "node:test"

import { Api } from "../../service/web/api.js"
import { EventParser, Events, SILENT_MILLISECONDS } from "../../service/web/events.js"
import { Session } from "../../service/web/session.js"
import { Clock, nextTurn, until } from "./support/clocks.js"
import { serve } from "./support/servers.js"

/** @typedef {import("../../service/web/events.js").ServerEvent} ServerEvent */

/**
 * Return the events of a stream that arrives in these pieces.
 * @param {...(string | Uint8Array)} pieces
 */
function parse(...pieces) {
  const events = /** @type {ServerEvent[]} */ ([])
  const parser = new EventParser((event) => events.push(event))
  for (const piece of pieces) {
    parser.read(typeof piece === "string" ? new TextEncoder().encode(piece) : piece)
  }
  return events
}

const READY =
  'id: 1412-86\nevent: transition\ndata: {"file_id":"f1","filename":"größe €.jpg",' +
  '"state":"ready","previous":"verifying","by":"worker","why":null,"hash":"9f86"}\n\n'

describe("the parser", () => {
  test("joins the lines of data (HTML, 9.2.6, first example)", () => {
    const events = parse("data: YHOO\ndata: +2\ndata: 10\n\n")
    assert.deepEqual(events, [{ type: "message", data: "YHOO\n+2\n10" }])
  })

  test("reads comments, ids and spaces (HTML, 9.2.6, second example)", () => {
    const events = parse(
      ": test stream\n\n" +
        "data: first event\nid: 1\n\n" +
        "data:second event\nid\n\n" +
        "data:  third event\n\n",
    )
    assert.deepEqual(events, [
      { type: "message", data: "first event", id: "1" },
      { type: "message", data: "second event", id: "" },
      { type: "message", data: " third event" },
    ])
  })

  test("reads fields without a value (HTML, 9.2.6, third example)", () => {
    const events = parse("data\n\ndata\ndata\n\ndata:")
    assert.deepEqual(
      events.map(({ data }) => data),
      ["", "\n"],
    )
  })

  test("ignores the space after a colon (HTML, 9.2.6, fourth example)", () => {
    const [one, other] = parse("data:test\n\ndata: test\n\n")
    assert.deepEqual(one, other)
  })

  test("keeps an empty first line of data", () => {
    assert.equal(parse("data:\ndata: second\n\n")[0].data, "\nsecond")
  })

  test("accepts the three ends of lines of the standard", () => {
    const expected = [
      { type: "a", data: "1\n2" },
      { type: "message", data: "3" },
    ]
    for (const end of ["\n", "\r\n", "\r"]) {
      const stream = ["event: a", "data: 1", "data: 2", "", "data: 3", "", ": alive", ""].join(end)
      assert.deepEqual(parse(stream), expected, JSON.stringify(end))
    }
  })

  test("does not take a CRLF for two ends when a chunk ends in between", () => {
    assert.deepEqual(parse("data: 1\r", "\ndata: 2\r", "\n\r", "\n"), [
      { type: "message", data: "1\n2" },
    ])
  })

  test("accepts chunks that end anywhere, even inside a character", () => {
    const bytes = new TextEncoder().encode(READY)
    const [expected] = parse(bytes)
    assert.equal(JSON.parse(expected.data ?? "").filename, "größe €.jpg")
    for (let place = 0; place <= bytes.length; place++) {
      assert.deepEqual(parse(bytes.slice(0, place), bytes.slice(place)), [expected])
    }
    assert.deepEqual(parse(...Array.from(bytes, (byte) => Uint8Array.of(byte))), [expected])
  })

  test("ignores a byte order mark, but only at the beginning", () => {
    const events = parse("\uFEFFdata: 1\n\n\uFEFFdata: 2\n\n")
    assert.deepEqual(events, [{ type: "message", data: "1" }])
  })

  test("keeps the line separators of Unicode inside the data", () => {
    assert.equal(parse('data: {"why":"a\u2028b\u2029c\u0085d"}\n\n')[0].data?.length, 17)
  })

  test("dispatches nothing for comments, other fields and empty lines", () => {
    const stream = ": alive\n\n\n\nretry: 2000\n\nother: 1\n\n Data: 1\n\nevent: a\n\n"
    assert.deepEqual(parse(stream), [])
  })

  test("does not carry a type or an id over to the next event", () => {
    assert.deepEqual(parse("event: a\nid: 1\ndata: x\n\ndata: y\n\n")[1], {
      type: "message",
      data: "y",
    })
  })

  test("takes an empty type for `message`", () => {
    assert.equal(parse("event:\ndata: x\n\n")[0].type, "message")
  })

  test("ignores an id that holds a NUL", () => {
    assert.deepEqual(parse("id: 1\0\ndata: x\n\n"), [{ type: "message", data: "x" }])
  })

  test("reports an id without data, which is a position in the stream", () => {
    assert.deepEqual(parse("id: 12-3\n\n"), [{ type: "message", id: "12-3" }])
  })

  test("drops an event whose empty line has not arrived", () => {
    assert.deepEqual(parse("id: 1\ndata: x\n"), [])
  })
})

/**
 * @typedef {object} Connection a request for the stream
 * @property {string | undefined} lastId its `Last-Event-ID`
 * @property {string | undefined} key its `Authorization`
 * @property {import("node:http").ServerResponse} response
 * @property {boolean} isClosed
 */

/** @typedef {(connection: Connection, number: number) => unknown} Play */

/**
 * Start a server of events, and return the page's client of it. `play` answers the connections,
 * which are counted from 1.
 * @param {import("node:test").TestContext} context
 * @param {Play} play
 */
async function connect(context, play) {
  const connections = /** @type {Connection[]} */ ([])
  const root = await serve(context, (request, response) => {
    assert.equal(request.url, "/events")
    const { "last-event-id": lastId, authorization: key } = request.headers
    const connection = { lastId: lastId?.toString(), key, response, isClosed: false }
    response.on("close", () => (connection.isClosed = true))
    play(connection, connections.push(connection))
  })
  const clock = new Clock()
  const session = new Session()
  session.key = "assay_key"
  const api = new Api(session, root, undefined, clock)
  const events = new Events(api, clock)
  const seen = /** @type {string[]} */ ([])
  for (const type of ["reset", "missing"]) events.addEventListener(type, () => seen.push(type))
  events.addEventListener("transition", (event) => {
    seen.push(/** @type {CustomEvent} */ (event).detail.file_id)
  })
  context.after(() => events.close())
  return { events, seen, connections, clock, session }
}

/**
 * @param {Connection} connection
 * @param {...string} texts
 */
function send({ response }, ...texts) {
  response.writeHead(200, { "Content-Type": "text/event-stream" })
  response.flushHeaders()
  for (const text of texts) response.write(text)
}

/**
 * @param {Connection} connection
 * @param {number} status
 * @param {Record<string, string>} headers
 */
function refuse({ response }, status, headers = {}) {
  response.writeHead(status, headers).end()
}

/**
 * Return the text of a transition.
 * @param {string} id
 * @param {string} file
 */
function write(id, file) {
  return `id: ${id}\nevent: transition\ndata: {"file_id":"${file}","state":"ready"}\n\n`
}

describe("the stream", () => {
  afterEach(() => mock.timers.reset())

  test("continues after the last event when the connection ends", async (context) => {
    const { events, seen, connections } = await connect(context, (connection, number) => {
      if (number === 1) {
        send(connection, "retry: 2000\n", write("7-1", "one"), write("7-2", "two"))
        connection.response.end()
      } else send(connection, write("7-3", "three"))
    })
    events.open()
    await until(() => seen.length === 3)
    assert.deepEqual(seen, ["one", "two", "three"])
    assert.deepEqual(
      connections.map(({ lastId, key }) => [lastId, key]),
      [
        [undefined, "Bearer assay_key"],
        ["7-2", "Bearer assay_key"],
      ],
    )
  })

  test("continues after a position that came without an event", async (context) => {
    const { events, seen, connections } = await connect(context, (connection) => {
      send(connection, "id: 9-9\n\n")
      connection.response.end()
    })
    events.open()
    await until(() => connections.length >= 2)
    assert.equal(connections[1].lastId, "9-9")
    assert.deepEqual(seen, [])
  })

  test("does not continue after an event whose end was lost", async (context) => {
    const { events, seen, connections } = await connect(context, (connection, number) => {
      const text = write("7-2", "two")
      send(connection, write("7-1", "one"), number === 1 ? text.slice(0, -1) : text)
      if (number === 1) connection.response.end()
    })
    events.open()
    await until(() => seen.length === 3)
    assert.equal(connections[1].lastId, "7-1")
  })

  test("pauses for half a second to 1.5 s after a connection", async (context) => {
    const { events, connections, clock } = await connect(context, (connection) => {
      send(connection, ": alive\n\n")
      connection.response.end()
    })
    events.open()
    await until(() => connections.length >= 2)
    clock.random = () => 0.999
    const pauses = clock.pauses.length
    await until(() => clock.pauses.length >= pauses + 2)
    assert.equal(clock.pauses[0], 500)
    assert.equal(clock.pauses.at(-1), 1499)
  })

  test("waits longer and longer for a server that does not answer", async (context) => {
    const { events, seen, clock } = await connect(context, (connection, number) => {
      if (number === 1) refuse(connection, 503)
      else if (number === 2) connection.response.destroy()
      else if (number === 3) connection.response.end()
      else if (number === 4) refuse(connection, 429, { "Retry-After": "7" })
      else send(connection, write("7-1", "one"))
    })
    events.open()
    await until(() => seen.includes("one"))
    assert.deepEqual(clock.pauses, [250, 500, 1000, 7000])
  })

  test("reports the `reset` of the server, and continues", async (context) => {
    const { events, seen } = await connect(context, (connection) => {
      send(connection, "id: 8-1\nevent: reset\ndata: {}\n\n", write("8-2", "one"))
    })
    events.open()
    await until(() => seen.length === 2)
    assert.deepEqual(seen, ["reset", "one"])
    assert.equal(events.lastId, "8-2")
  })

  test("reports `reset` when it cannot say where to continue", async (context) => {
    const { events, seen, connections } = await connect(context, (connection, number) => {
      send(connection, ": alive\n\n")
      if (number === 1) connection.response.end()
    })
    events.open()
    await until(() => connections.length === 2 && seen.length > 0)
    assert.deepEqual(seen, ["reset"])
  })

  for (const status of [400, 403, 404, 501]) {
    test(`is missing, and reported once, if the server answers ${status}`, async (context) => {
      const { events, seen, connections } = await connect(context, (connection) => {
        refuse(connection, status)
      })
      events.open()
      await until(() => seen.length > 0)
      events.open()
      await nextTurn()
      assert.deepEqual(seen, ["missing"])
      assert.equal(events.isMissing, true)
      assert.equal(connections.length, 1)
    })
  }

  test("stops at a 401, and continues with the next key", async (context) => {
    const { events, seen, connections, session } = await connect(context, (connection, number) => {
      if (number === 2) return refuse(connection, 401)
      send(connection, write(`7-${number}`, `file ${number}`))
      if (number === 1) connection.response.end()
    })
    events.open()
    await until(() => session.isLost && events.controller === null)
    session.open("assay_other", false)
    events.open()
    await until(() => seen.length === 2)
    assert.deepEqual(seen, ["file 1", "file 3"])
    assert.equal(connections[2].lastId, "7-1")
    assert.equal(connections[2].key, "Bearer assay_other")
  })

  test("closes its connection, and opens another one after its last event", async (context) => {
    const { events, seen, connections } = await connect(context, (connection, number) => {
      send(connection, write(`7-${number}`, `file ${number}`))
    })
    events.open()
    events.open()
    await until(() => seen.length === 1)
    events.close()
    await until(() => connections[0].isClosed)
    assert.equal(connections.length, 1)
    events.open()
    await until(() => seen.length === 2)
    assert.equal(connections[1].lastId, "7-1")
  })

  test("starts anew for another owner", async (context) => {
    const { events, seen, connections } = await connect(context, (connection, number) => {
      send(connection, write(`7-${number}`, `file ${number}`))
    })
    events.open()
    await until(() => seen.length === 1)
    events.forget()
    events.open()
    await until(() => seen.length === 2)
    assert.deepEqual(seen, ["file 1", "file 2"])
    assert.equal(connections[1].lastId, undefined)
  })

  test("goes past an event that is not JSON", async (context) => {
    const { events, seen, connections } = await connect(context, (connection, number) => {
      if (number === 1) send(connection, "id: 7-1\nevent: transition\ndata: {\n\n")
      else send(connection, write("7-2", "two"))
    })
    events.open()
    await until(() => seen.length === 1)
    assert.deepEqual(seen, ["two"])
    assert.equal(connections[1].lastId, "7-1")
  })

  test("opens another connection after a minute of silence", async (context) => {
    mock.timers.enable({ apis: ["setTimeout"] })
    const { events, seen, connections } = await connect(context, (connection, number) => {
      send(connection, write(`7-${number}`, `file ${number}`))
    })
    events.open()
    await until(() => seen.length === 1)
    mock.timers.tick(SILENT_MILLISECONDS - 1)
    connections[0].response.write(write("7-2", "file 2"))
    await until(() => seen.length === 2)
    mock.timers.tick(SILENT_MILLISECONDS - 1)
    for (let turn = 0; turn < 20; turn++) await nextTurn()
    assert.equal(connections[0].isClosed, false)
    mock.timers.tick(1)
    await until(() => connections[0].isClosed && seen.length === 3)
    assert.equal(connections[1].lastId, "7-2")
  })
})
