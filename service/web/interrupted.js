/**
 * The uploads of an earlier visit that are not finished. An upload continues when the user chooses
 * its file again.
 */

import { find, make, makeName, setText, show, showName } from "./elements.js"
import { forget, recallAll } from "./resumable.js"
import { sayBytes, sayCount } from "./words.js"

const MOST_ROWS = 5
const MOST_PENDING = 1000

/** @typedef {import("./api.js").FileMetadata} FileMetadata */
/** @typedef {import("./resumable.js").Entry} Entry */

export class Interrupted {
  /**
   * @param {Pick<import("./api.js").Api, "ask">} api
   * @param {import("./uploads.js").Uploads} uploads
   */
  constructor(api, uploads) {
    this.api = api
    this.uploads = uploads
    this.entries = /** @type {Entry[]} */ ([])
    this.place = find("interrupted", HTMLElement)
    uploads.addEventListener("added", () => this.draw())
  }

  /** Show the entries whose files are pending. (The browser may hold entries of other owners.) */
  async load() {
    const recalled = await recallAll()
    this.entries = []
    if (recalled.length > 0) {
      const page = await this.api.ask("GET", `files?state=pending&limit=${MOST_PENDING}`)
      const files = /** @type {FileMetadata[]} */ (page.files)
      const pendingIds = new Set(files.map((file) => file.id))
      this.entries = recalled.filter((entry) => pendingIds.has(entry.id))
    }
    this.draw()
  }

  draw() {
    const inProgress = new Set(this.uploads.all.map((upload) => upload.identity))
    this.entries = this.entries.filter((entry) => !inProgress.has(entry.identity))
    const count = this.entries.length
    const rows = this.entries.slice(0, MOST_ROWS).map((entry) => this.makeRow(entry))
    show(this.place, count > 0)
    setText(find("interrupted-text", HTMLElement), describeInterrupted(count))
    find("interrupted-list", HTMLUListElement).replaceChildren(...rows)
    const more = count > MOST_ROWS ? `and ${sayCount(count - MOST_ROWS, "more file")}` : ""
    setText(find("interrupted-more", HTMLElement), more)
  }

  /** @param {Entry} entry */
  makeRow(entry) {
    const properties = {
      type: "button",
      class: "small",
      "aria-label": `Discard ${showName(entry.path)}`,
      onclick: () => this.discard(entry),
    }
    return make(
      "li",
      {},
      makeName(entry.path, { class: "name" }),
      make("span", { class: "size" }, sayBytes(entry.size)),
      make("button", properties, "Discard"),
    )
  }

  /** @param {Entry} entry */
  async discard(entry) {
    this.entries = this.entries.filter((other) => other !== entry)
    this.draw()
    find("choose-files", HTMLButtonElement).focus()
    await forget(entry.identity)
    try {
      await this.api.ask("DELETE", `files/${entry.id}`)
    } catch {
      // The file stays pending until it expires.
    }
  }
}

/** @param {number} count */
function describeInterrupted(count) {
  const uploads = sayCount(count, "upload was", "uploads were")
  const files = count === 1 ? "file" : "files"
  return (
    `${uploads} interrupted. Choose the same ${files} again to continue.` +
    " Data that was already sent is not sent again."
  )
}
