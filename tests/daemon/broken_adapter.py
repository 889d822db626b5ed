"""An adapter whose import fails as native libraries do."""

raise OSError("libmodel.so: cannot open shared object file")
