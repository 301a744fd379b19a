//! Bad files get an error with file, line, column, field and remedy; good ones load.
