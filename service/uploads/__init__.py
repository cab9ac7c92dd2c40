"""Ways into incoming and the vault: declare, sign, parts, assembly, `complete`, streamed uploads."""
