/** Uploads that an earlier visit left behind: when the same files are chosen again, they go on where they were. */

import { find, make, makeName, setText, show, showName } from "./elements.js"
import { forget, recallAll } from "./resumable.js"
import { sayBytes, sayCount } from "./words.js"

const MOST_ROWS = 5
const MOST_PENDING = 1000

export class Interrupted {
  /** @param {import("./api.js").Api} api @param {import("./uploads.js").Uploads} uploads */
  constructor(api, uploads) {
    this.api = api
    this.uploads = uploads
    this.entries = /** @type {import("./resumable.js").Entry[]} */ ([])
    this.place = find("interrupted", HTMLElement)
    uploads.addEventListener("added", () => this.draw())
  }

  /** Of what this browser remembers, what the server still waits for: another owner's files are not shown. */
  async load() {
    const remembered = await recallAll()
    this.entries = []
    if (remembered.length) {
      const page = await this.api.ask("GET", `files?state=pending&limit=${MOST_PENDING}`)
      const pending = new Set(page.files.map((/** @type {{id: string}} */ file) => file.id))
      this.entries = remembered.filter((entry) => pending.has(entry.id))
    }
    this.draw()
  }

  draw() {
    const underWay = new Set(this.uploads.all.map((upload) => upload.identity))
    this.entries = this.entries.filter((entry) => !underWay.has(entry.identity))
    const { entries } = this
    show(this.place, entries.length > 0)
    const all = `${sayCount(entries.length, "upload was", "uploads were")} interrupted. Choose the same ${entries.length === 1 ? "file" : "files"} again`
    setText(find("interrupted-text", HTMLElement), `${all}, and what was sent is not sent twice.`)
    find("interrupted-list", HTMLUListElement).replaceChildren(...entries.slice(0, MOST_ROWS).map((entry) => this.makeRow(entry)))
    const more = find("interrupted-more", HTMLElement)
    setText(more, entries.length > MOST_ROWS ? `and ${sayCount(entries.length - MOST_ROWS, "more file")}` : "")
  }

  /** @param {import("./resumable.js").Entry} entry */
  makeRow(entry) {
    const discard = make("button", { type: "button", class: "small", "aria-label": `Discard ${showName(entry.path)}` }, "Discard")
    discard.addEventListener("click", () => this.discard(entry))
    return make("li", {}, makeName(entry.path, { class: "name" }), make("span", { class: "size" }, sayBytes(entry.size)), discard)
  }

  /** @param {import("./resumable.js").Entry} entry */
  async discard(entry) {
    this.entries = this.entries.filter((other) => other !== entry)
    this.draw()
    find("choose-files", HTMLButtonElement).focus()
    await forget(entry.identity)
    await this.api.ask("DELETE", `files/${entry.id}`).catch(() => undefined) // then it ends by itself
  }
}
