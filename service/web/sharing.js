/** The form that creates a signed link to a file, shows it, and copies it. */

import { make, makeCopyButton, setText } from "./elements.js"
import { sayError, sayTime } from "./words.js"

const DAY_SECONDS = 24 * 3600

/** @type {[number, string][]} */
const LIFETIMES = [
  [3600, "1 hour"],
  [DAY_SECONDS, "1 day"],
  [3 * DAY_SECONDS, "3 days"],
  [7 * DAY_SECONDS, "7 days"],
]

/**
 * @param {Pick<import("./api.js").Api, "ask" | "root">} api
 * @param {string} id of the file
 */
export function makeShare(api, id) {
  const options = LIFETIMES.map(([seconds, text]) => make("option", { value: seconds }, text))
  const lifetime = make("select", { id: "link-end" }, ...options)
  lifetime.value = String(DAY_SECONDS)
  const link = make("input", { id: "link", readonly: true, "aria-label": "Link" })
  const copyButton = makeCopyButton(() => link.value, "Copy the link")
  const result = make("div", { class: "line", hidden: true }, link, copyButton)
  const status = make("p", { role: "status" })
  const label = make("label", { for: "link-end" }, "Valid for")
  const submit = make("button", { type: "submit", class: "first" }, "Create the link")
  const choice = make("div", { class: "line" }, label, lifetime, submit)
  const form = make("form", {}, choice, result, status)
  form.addEventListener("submit", async (event) => {
    event.preventDefault()
    try {
      const body = { expires_in: Number(lifetime.value) }
      const created = await api.ask("POST", `files/${id}/links`, { body })
      link.value = makeAbsolute(created.url, api.root)
      result.hidden = false
      status.classList.remove("failure")
      setText(status, describeLink(created.expires_at))
      copyButton.focus()
    } catch (error) {
      status.classList.add("failure")
      setText(status, `The link could not be created. ${sayError(error)}`)
    }
  })
  return form
}

/** @param {string} expiresAt RFC 3339 */
function describeLink(expiresAt) {
  return (
    `The link gives access to the file without a key until ${sayTime(expiresAt)}. It stops` +
    " working earlier if your key is revoked or expires, or if the file is deleted."
  )
}

/**
 * Return a link that can be shared. Without `PUBLIC_URL`, the server returns only a path.
 * @param {string} url
 * @param {URL} root the address of the API
 */
function makeAbsolute(url, root) {
  return url.startsWith("/") ? new URL(url.slice(1), root).href : url
}
