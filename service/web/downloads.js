/**
 * Downloads of any size, directly to the disk. The browser follows a signed link that is valid for
 * an hour, so that no data passes through the page.
 *
 * If the server creates no links (501), the user chooses a file on this device, and the page writes
 * the stream to it. Some browsers cannot do this. The error then names the alternatives.
 */

import { Refused } from "./api.js"
import { make } from "./elements.js"

const LINK_SECONDS = 3600

/** @typedef {Pick<import("./api.js").FileMetadata, "id" | "filename">} Downloadable */
/** @typedef {(options: {suggestedName: string}) => Promise<FileSystemFileHandle>} ChooseFile */

/**
 * Download a file, and return a text for the user that says what was done.
 * @param {Pick<import("./api.js").Api, "ask" | "fetch" | "root">} api
 * @param {Downloadable} file
 * @returns {Promise<string>}
 */
export async function download(api, file) {
  try {
    const body = { expires_in: LINK_SECONDS }
    const link = await api.ask("POST", `files/${file.id}/links`, { body })
    follow(link.url, api.root)
    return "The download has started."
  } catch (error) {
    if (!(error instanceof Refused) || error.status !== 501) throw error
    return saveStream(api, file)
  }
}

/**
 * Follow a signed link at the address by which this page reaches the API. (The link may name
 * another host.)
 * @param {string} url
 * @param {URL} root the address of the API
 */
function follow(url, root) {
  const address = new URL(`l/${url.split("/l/").pop()}`, root)
  const anchor = make("a", { href: address.href, download: "", hidden: true })
  document.body.append(anchor)
  anchor.click()
  anchor.remove()
}

/**
 * @param {Pick<import("./api.js").Api, "fetch">} api
 * @param {Downloadable} file
 */
async function saveStream(api, file) {
  const { showSaveFilePicker: chooseFile } = /** @type {{showSaveFilePicker?: ChooseFile}} */ (
    window
  )
  if (!chooseFile) {
    throw new Error(
      "This server creates no links (ASSAY_LINK_SECRET is not set), and this browser can download" +
        " only by a link. Use another browser, such as Chrome or Edge, or the command line.",
    )
  }
  let chosen
  try {
    chosen = await chooseFile({ suggestedName: file.filename })
  } catch {
    return "Nothing was saved."
  }
  const answer = await api.fetch("GET", `files/${file.id}`)
  await answer.body?.pipeTo(await chosen.createWritable())
  return "The file was saved."
}
