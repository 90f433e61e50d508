"""How a network is written as TFLite: the tables of rows, the writer, the file."""
