/**
 * A small picture of an image file. The page decodes the bytes itself and draws them on a canvas.
 * There is no URL of them, so that the Content-Security-Policy permits none, and an animated file
 * shows its first image. SVG is left out, because it can contain scripts.
 */

import { make, showName } from "./elements.js"
import { sayError } from "./words.js"

const MOST_BYTES = 20 * 1024 ** 2
const TYPES = new Set([
  "image/png",
  "image/jpeg",
  "image/gif",
  "image/webp",
  "image/avif",
  "image/bmp",
])

/** @typedef {import("./api.js").FileMetadata} FileMetadata */

/**
 * Return whether the page shows a picture of the file. A larger file would cost too much for a look
 * at its details.
 * @param {FileMetadata} file
 */
export function hasPicture({ state, size, content_type }) {
  const type = content_type.split(";")[0].trim().toLowerCase()
  return state === "ready" && size <= MOST_BYTES && TYPES.has(type)
}

export class Picture {
  /**
   * @param {Pick<import("./api.js").Api, "fetch">} api
   * @param {string} id the id of the file
   */
  constructor(api, id) {
    this.api = api
    this.id = id
    this.controller = new AbortController()
    this.canvas = make("canvas", { role: "img" })
    /** A box of a fixed size, so that nothing moves when the picture is drawn. */
    this.element = make("div", { class: "picture" })
  }

  /** @param {string} filename */
  label(filename) {
    this.canvas.setAttribute("aria-label", `Picture of ${showName(filename)}`)
  }

  /** Load and draw the picture. If this fails, show the reason in its place. */
  async load() {
    const { signal } = this.controller
    try {
      const answer = await this.api.fetch("GET", `files/${this.id}`, { signal })
      const bytes = await answer.blob()
      const isDrawn = await this.draw(bytes)
      if (!isDrawn) this.say("This browser cannot show this file as a picture.")
    } catch (error) {
      if (!signal.aborted) this.say(`The picture could not be loaded. ${sayError(error)}`)
    }
  }

  /**
   * Draw the picture as large as its box, and return whether the browser could decode it.
   * @param {Blob} bytes
   */
  async draw(bytes) {
    let image
    try {
      image = await createImageBitmap(bytes)
    } catch {
      return false
    }
    const { canvas, element } = this
    const width = element.clientWidth * devicePixelRatio
    const height = element.clientHeight * devicePixelRatio
    const scale = Math.min(1, width / image.width, height / image.height)
    canvas.width = Math.max(1, Math.round(image.width * scale))
    canvas.height = Math.max(1, Math.round(image.height * scale))
    const context = canvas.getContext("2d")
    if (!context) return false
    context.imageSmoothingQuality = "high"
    context.drawImage(image, 0, 0, canvas.width, canvas.height)
    image.close()
    element.replaceChildren(canvas)
    return true
  }

  /** @param {string} text */
  say(text) {
    this.element.replaceChildren(make("p", { class: "quiet" }, text))
  }

  /** End the request, if it is in progress. */
  stop() {
    this.controller.abort()
  }
}
