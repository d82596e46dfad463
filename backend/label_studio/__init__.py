"""We call Label Studio and know its formats; all but ledger, settings
and errors may import it."""
