//! What several promises need to be tested: files of tables, loopback stubs, waiting without sleeping.
