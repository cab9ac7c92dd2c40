/** The page's IndexedDB. A test imports this module before the modules that open the database. */

import { installDatabase } from "./storages.js"

export const rows = installDatabase()
