"""Identity's tables and the statements on them, one file per noun. Functions take a Reader or a Transaction and return model structs."""
