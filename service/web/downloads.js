/**
 * A file of any size straight to disk: the browser follows a link of an hour, as an attachment, and nothing passes through the page.
 *
 * Where there are no links (501) the page writes the stream to a file that is chosen first, in browsers that can. Elsewhere it says what
 * to do.
 */

import { Refused } from "./api.js"
import { make } from "./elements.js"

const LINK_SECONDS = 3600

/** @typedef {{id: string, filename: string}} Downloadable */

/** What was done, in words. @param {import("./api.js").Api} api @param {Downloadable} file @returns {Promise<string>} */
export async function download(api, file) {
  try {
    const link = await api.ask("POST", `files/${file.id}/links`, { body: { expires_in: LINK_SECONDS } })
    follow(api.root, link.url)
    return "The download has begun."
  } catch (error) {
    if (!(error instanceof Refused) || error.status !== 501) throw error
    return saveStream(api, file)
  }
}

/**
 * Open a link by the address of the page itself.
 * @param {URL} root
 * @param {string} url
 */
function follow(root, url) {
  const address = new URL(`l/${url.split("/l/").pop()}`, root)
  const anchor = make("a", { href: address.href, download: "", hidden: true })
  document.body.append(anchor)
  anchor.click()
  anchor.remove()
}

/** @param {import("./api.js").Api} api @param {Downloadable} file */
async function saveStream(api, file) {
  const choose = /** @type {any} */ (window).showSaveFilePicker
  if (!choose) {
    throw new Error("This server makes no links (ASSAY_LINK_SECRET is not set), and this browser cannot save without one. " +
      "Use another browser, such as Chrome or Edge, or the command line.")
  }
  let chosen
  try {
    chosen = await choose({ suggestedName: file.filename })
  } catch {
    return "Nothing was saved."
  }
  const answer = await api.fetch("GET", `files/${file.id}`)
  await answer.body?.pipeTo(await chosen.createWritable())
  return "The file is saved."
}
