/** The composition root: makes the parts and tells them of each other. Nothing else knows more than its own. */

import { announce } from "./announcing.js"
import { Api } from "./api.js"
import { Details } from "./details.js"
import { CAN_DIGEST } from "./digests.js"
import { DropPlace } from "./drop-place.js"
import { find, show } from "./elements.js"
import { Events } from "./events.js"
import { Files } from "./files.js"
import { Interrupted } from "./interrupted.js"
import { Proofs } from "./verification.js"
import { Rows } from "./rows.js"
import { Session } from "./session.js"
import { SigningIn } from "./signing-in.js"
import { Uploads } from "./uploads.js"
import { sayCount } from "./words.js"

const session = new Session()
const api = new Api(session)
const uploads = new Uploads(api)
const events = new Events(api)
const proofs = new Proofs(api, uploads, events)
const signingIn = new SigningIn(api, session)
const files = new Files(api, (id) => details.open(id))
const details = new Details(api, () => files.load())
const interrupted = new Interrupted(api, uploads)
new Rows(uploads)
new DropPlace((chosen) => take(chosen))

/** @param {import("./uploads.js").Chosen[]} chosen */
function take(chosen) {
  const taken = uploads.add(chosen)
  const twice = chosen.length - taken
  announce(`${sayCount(taken, "file is", "files are")} taken${twice ? `, ${sayCount(twice, "is", "are")} under way already` : ""}`)
}

/** Somebody is signed in. */
function open() {
  show(find("signing-in", HTMLElement), false)
  show(find("work", HTMLElement), true)
  show(find("sign-out", HTMLElement), true)
  show(find("no-digests", HTMLElement), !CAN_DIGEST)
  events.open()
  proofs.open()
  void files.load()
  void interrupted.load().catch(() => undefined) // the list says what is wrong
  find("choose-files", HTMLElement).focus({ preventScroll: true })
}

/** Nobody is: nothing of theirs stays on the page. */
function close() {
  proofs.close()
  events.forget()
  location.reload()
}

/** @param {{file_id: string, state: string, hash: string | null, filename: string, why: string | null}} event */
function hear(event) {
  files.hear(event)
  details.hear(event)
  const upload = uploads.byId(event.file_id)
  if (!upload) return
  if (event.state === "rejected") void proofs.ask(upload, 0, proofs.controller.signal).catch(() => undefined) // an event has no reason
  else upload.settle(event)
}

session.addEventListener("in", open)
session.addEventListener("out", close)
session.addEventListener("lost", () => events.close())
events.addEventListener("transition", (event) => hear(/** @type {CustomEvent} */ (event).detail))
events.addEventListener("reset", () => (files.refresh(), void proofs.askAll().catch(() => undefined)))
uploads.addEventListener("change", (event) => {
  const upload = /** @type {CustomEvent<import("./upload.js").Upload>} */ (event).detail
  if (events.isMissing && (upload.state === "ready" || upload.state === "rejected")) files.refresh()
})
document.addEventListener("visibilitychange", () => {
  if (!session.isOpen) return
  if (document.visibilityState === "visible") events.open()
  else if (!uploads.isBusy && !uploads.proving.length) events.close()
})
window.addEventListener("beforeunload", (event) => uploads.isBusy && event.preventDefault())

if (session.isOpen) open()
else signingIn.ask("")
