//! Pages reach PagerDuty, e-mail and webhooks, or stay until they do.
