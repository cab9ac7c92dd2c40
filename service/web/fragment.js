/**
 * The fragment of the page's address. `assay dev` prints an address whose fragment is `#key=` and
 * an API key. Browsers send no fragment to a server.
 *
 * index.html runs this module before any other one. The fragment is therefore removed even if
 * another module cannot be loaded.
 */

/** The fragment with which the page was opened, or "". */
export const openingFragment = takeFragment()

/** Return the fragment, and remove it from the address and from the entry of the tab's history. */
export function takeFragment() {
  const { hash } = location
  if (hash) {
    const address = new URL(location.href)
    address.hash = ""
    history.replaceState(null, "", address)
  }
  return hash
}
