/** A link for somebody without a key: its end is chosen, then it is made, shown and copied. */

import { make, makeCopyButton, setText } from "./elements.js"
import { sayError, sayTime } from "./words.js"

const ENDS = /** @type {[number, string][]} */ ([[3600, "1 hour"], [86_400, "1 day"], [3 * 86_400, "3 days"], [7 * 86_400, "7 days"]])

/** @param {import("./api.js").Api} api @param {string} id */
export function makeShare(api, id) {
  const choice = make("select", { id: "link-end" }, ...ENDS.map(([seconds, text]) => make("option", { value: seconds }, text)))
  choice.value = "86400"
  const link = make("input", { id: "link", readonly: true, "aria-label": "The link" })
  const copy = makeCopyButton(() => link.value, "Copy the link")
  const made = make("div", { class: "line", hidden: true }, link, copy)
  const said = make("p", { role: "status" })
  const form = make("form", {},
    make("div", { class: "line" }, make("label", { for: "link-end" }, "Works for"), choice,
      make("button", { type: "submit", class: "first" }, "Make the link")),
    made, said)
  form.addEventListener("submit", async (event) => {
    event.preventDefault()
    try {
      const answer = await api.ask("POST", `files/${id}/links`, { body: { expires_in: Number(choice.value) } })
      link.value = answer.url.startsWith("/") ? new URL(answer.url.slice(1), api.root).href : answer.url
      made.hidden = false
      said.classList.remove("failure")
      setText(said, `Whoever has the link can read the file until ${sayTime(answer.expires_at)}, or until your key or the file ends.`)
      copy.focus()
    } catch (error) {
      said.classList.add("failure")
      setText(said, `There is no link. ${sayError(error)}`)
    }
  })
  return form
}
