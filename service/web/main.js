/** The composition root: it creates the components and connects them. */

import { announce } from "./announcing.js"
import { Api } from "./api.js"
import { Details } from "./details.js"
import { CAN_DIGEST } from "./digests.js"
import { DropPlace } from "./drop-place.js"
import { find, show } from "./elements.js"
import { Events } from "./events.js"
import { Files } from "./files.js"
import { openingFragment, takeFragment } from "./fragment.js"
import { Interrupted } from "./interrupted.js"
import { Rows } from "./rows.js"
import { Session } from "./session.js"
import { SigningIn } from "./signing-in.js"
import { Uploads } from "./uploads.js"
import { Verification } from "./verification.js"
import { sayCount } from "./words.js"

const session = new Session()
const api = new Api(session, new URL(".", document.baseURI))
const uploads = new Uploads(api)
const events = new Events(api)
const verification = new Verification(api, uploads, events)
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
  const repeated = twice ? `, ${sayCount(twice, "is", "are")} already in progress` : ""
  announce(`${sayCount(taken, "file is", "files are")} queued${repeated}`)
}

/** Show the uploads and the files of the user who has signed in. */
function open() {
  show(find("signing-in", HTMLElement), false)
  show(find("work", HTMLElement), true)
  show(find("sign-out", HTMLElement), true)
  show(find("no-digests", HTMLElement), !CAN_DIGEST)
  events.open()
  verification.open()
  void files.load()
  void interrupted.load().catch(() => undefined) // the list shows the error
  find("choose-files", HTMLElement).focus({ preventScroll: true })
}

/** Reload the page, so that it holds nothing of the user who has signed out. */
function close() {
  verification.close()
  events.forget()
  location.reload()
}

/** @param {import("./events.js").Transition} transition */
function apply(transition) {
  files.update(transition)
  details.update(transition)
  const upload = uploads.byId(transition.file_id)
  if (!upload) return
  if (transition.state !== "rejected") {
    upload.settle(transition)
    return
  }
  // A transition has no rejection, so the reason is read from the file.
  const { signal } = verification.controller
  void verification.poll(upload, 0, signal).catch(() => undefined)
}

session.addEventListener("in", open)
session.addEventListener("out", close)
session.addEventListener("lost", () => events.close())
events.addEventListener("transition", (event) => apply(/** @type {CustomEvent} */ (event).detail))
events.addEventListener("reset", () => {
  files.refresh()
  void verification.pollAll().catch(() => undefined)
})
uploads.addEventListener("change", (event) => {
  const upload = /** @type {CustomEvent<import("./upload.js").Upload>} */ (event).detail
  const hasVerdict = upload.state === "ready" || upload.state === "rejected"
  if (events.isMissing && hasVerdict) files.refresh()
})
document.addEventListener("visibilitychange", () => {
  if (!session.isOpen) return
  if (document.visibilityState === "visible") events.open()
  else if (!uploads.isBusy && !uploads.proving.length) events.close()
})
window.addEventListener("beforeunload", (event) => {
  if (uploads.isBusy) event.preventDefault()
})
// An address that differs only in its fragment does not load the page again.
window.addEventListener("hashchange", () => useFragment(takeFragment()))

/** @param {string} fragment */
function useFragment(fragment) {
  if (fragment) void signingIn.useFragment(fragment)
}

if (session.isOpen) open()
else signingIn.ask("")
useFragment(openingFragment)
