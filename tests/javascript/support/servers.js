/** Real HTTP servers on the loopback interface. */

import { once } from "node:events"
import { createServer } from "node:http"

/** @typedef {import("node:http").IncomingMessage} Request */
/** @typedef {import("node:http").ServerResponse} Response */

/**
 * Start a server that ends with the test, and return its address.
 * @param {import("node:test").TestContext} context
 * @param {(request: Request, response: Response) => unknown} answer
 */
export async function serve(context, answer) {
  const server = createServer(answer)
  server.listen(0, "127.0.0.1")
  await once(server, "listening")
  context.after(() => {
    server.closeAllConnections()
    server.close()
  })
  const { port } = /** @type {import("node:net").AddressInfo} */ (server.address())
  return new URL(`http://127.0.0.1:${port}/`)
}

/**
 * Return the text of a request's body.
 * @param {Request} request
 */
export async function readBody(request) {
  let text = ""
  for await (const piece of request.setEncoding("utf8")) text += piece
  return text
}

/** Return an address at which no server listens. */
export async function findClosedPort() {
  const server = createServer()
  server.listen(0, "127.0.0.1")
  await once(server, "listening")
  const { port } = /** @type {import("node:net").AddressInfo} */ (server.address())
  server.close()
  await once(server, "close")
  return new URL(`http://127.0.0.1:${port}/`)
}
