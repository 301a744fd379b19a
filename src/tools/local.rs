//! Tools made in code: functions of a library user, in a server named `local`.

use std::any::Any;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use serde_json::Value;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::{
    Calling, DESCRIPTION_MAX, Error, Offered, Pending, RESULT_MAX, Said, Teller, ToolServer, Trouble, with_key,
};
use crate::answer::Validator;
use crate::cause::ToolFault;
use crate::redact::one_line;
use crate::task::{IdempotencyKey, Integration};
use crate::tool::{Hints, LOCAL, ToolRule};

type Answer = Pin<Box<dyn Future<Output = Result<String, String>> + Send>>;

/// A function that agents may call.
#[derive(Clone)]
pub struct Function {
    offered: Offered,
    rule: Option<ToolRule>,
    call: Arc<dyn Fn(Value, IdempotencyKey) -> Answer + Send + Sync>,
}

impl std::fmt::Debug for Function {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Function").field("offered", &self.offered).field("rule", &self.rule).finish_non_exhaustive()
    }
}

/// A function that agents may call under this name: what it does in words for the model, the JSON Schema of its
/// arguments, what it does to the world, and the function itself.
///
/// It is given its arguments and the idempotency key of the call, and answers with a text for the model, or with a text
/// that says why it failed. A panic in it fails the call, not the team. Unless it only reads, or is declared otherwise
/// with [`Function::declared`], it is taken for a mutation that is never repeated blindly.
///
/// ```
/// use backstop::tool::Hints;
/// use backstop::tools::{Local, function};
/// use serde_json::json;
///
/// let reads = Hints { read_only: Some(true), ..Hints::default() };
/// let schema = json!({ "type": "object", "properties": { "city": { "type": "string" } }, "required": ["city"] });
/// let weather = function("weather", "Today's weather of a city", schema, reads, |arguments, _key| async move {
///     Ok::<_, String>(format!("It rains in {}.", arguments["city"].as_str().unwrap_or("this city")))
/// });
/// let local = Local::new([weather])?;
/// # Ok::<(), backstop::tools::Error>(())
/// ```
pub fn function<F, A>(
    name: impl Into<String>,
    description: impl Into<String>,
    schema: Value,
    hints: Hints,
    call: F,
) -> Function
where
    F: Fn(Value, IdempotencyKey) -> A + Send + Sync + 'static,
    A: Future<Output = Result<String, String>> + Send + 'static,
{
    let offered = Offered { tool: name.into(), description: description.into(), schema, hints: Some(hints) };
    let call = move |arguments, key| -> Answer { Box::pin(call(arguments, key)) };
    Function { offered, rule: None, call: Arc::new(call) }
}

impl Function {
    /// With this declared of it: a payment, a probe, a key the other side knows it again by.
    #[must_use]
    pub fn declared(mut self, rule: ToolRule) -> Self {
        self.rule = Some(rule);
        self
    }
}

/// The server of the functions of one application.
pub struct Local {
    teller: Arc<Teller>,
    functions: BTreeMap<String, Function>,
}

impl std::fmt::Debug for Local {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Local").field("functions", &self.functions).finish_non_exhaustive()
    }
}

impl Local {
    /// A server of these functions; of two with one name the later.
    ///
    /// # Errors
    /// When a name cannot be one, or a schema is none.
    pub fn new(functions: impl IntoIterator<Item = Function>) -> Result<Self, Error> {
        let mut named = BTreeMap::new();
        for mut function in functions {
            let name = function.offered.tool.clone();
            let bad = |why| Error::BadName { name: name.chars().take(80).collect(), why };
            if name.is_empty()
                || name.len() > 64
                || !name.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c))
            {
                return Err(bad("letters, digits, `_` and `-`, at most 64, are what models can name"));
            }
            if matches!(name.as_str(), "http" | "http_get" | "http_request") || name.contains("__") {
                return Err(bad("it would be taken for a tool of another server"));
            }
            let schema = &function.offered.schema;
            Validator::new(schema).map_err(|source| Error::BadSchema { name: name.clone(), source })?;
            function.offered.description = one_line(&function.offered.description, DESCRIPTION_MAX);
            named.insert(name, function);
        }
        let name = Integration::new(LOCAL).expect("`local` is a name");
        Ok(Self { teller: Arc::new(Teller::new(name, [])), functions: named })
    }

    async fn made(&self, calling: &Calling) -> Result<Said, Box<Trouble>> {
        let doing = calling.tool.as_str();
        let Some(function) = self.functions.get(doing) else {
            return Err(self.teller.unsent(ToolFault::Gone, doing, "there is no such function"));
        };
        // A task of its own: time runs out for a function that never yields too, and its panic stays in it.
        let call = Arc::clone(&function.call);
        let (arguments, key) = (with_key(calling), calling.key.clone());
        let task = AbortOnDropHandle::new(tokio::spawn(async move { call(arguments, key).await }));
        let text = match timeout(calling.within, task).await {
            Err(_) => return Err(self.teller.late(doing, calling.within, true)),
            Ok(Err(error)) => {
                let what = match error.try_into_panic() {
                    Ok(panic) => format!("panicked: {}", said(&*panic)),
                    Err(error) => format!("was given up: {error}"),
                };
                return Err(self.teller.sent(ToolFault::Died, doing, what));
            }
            Ok(Ok(answer)) => answer,
        };
        let (text, failed) = match text {
            Ok(text) => (text, false),
            Err(text) => (text, true),
        };
        if text.len() > RESULT_MAX {
            let what = format!("its answer has {} bytes; at most {RESULT_MAX} are taken", text.len());
            return Err(self.teller.sent(ToolFault::TooLarge, doing, what));
        }
        Ok(Said { text, failed })
    }
}

impl ToolServer for Local {
    fn name(&self) -> &Integration {
        &self.teller.server
    }

    fn offered(&self) -> Pending<'_, Vec<Offered>> {
        Box::pin(async { Ok(self.functions.values().map(|function| function.offered.clone()).collect()) })
    }

    fn rule(&self, tool: &str) -> Option<ToolRule> {
        self.functions.get(tool)?.rule.clone()
    }

    fn call<'a>(&'a self, calling: &'a Calling) -> Pending<'a, Said> {
        Box::pin(self.made(calling))
    }
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without words".to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::tool::KeyPlace;

    fn calling(tool: &str, arguments: Value) -> Calling {
        Calling {
            tool: tool.to_owned(),
            arguments,
            key: IdempotencyKey::new("key-1").expect("a key"),
            key_place: KeyPlace::Default,
            within: Duration::from_secs(5),
        }
    }

    fn any() -> Value {
        json!({"type": "object"})
    }

    fn server() -> Local {
        let hints = Hints::default();
        Local::new([
            function("echo", "Says it again", any(), hints, |arguments, key| async move {
                Ok(format!("{arguments} under {}", key.as_str()))
            }),
            function("refuse", "", any(), hints, |_, _| async { Err("no such city".to_owned()) }),
            function("panic", "", any(), hints, |_, _| async { panic!("index out of bounds") }),
            function("panic_at_once", "", any(), hints, |_, _| -> std::future::Ready<_> { panic!("at once {}", 1) }),
            function("hang", "", any(), hints, |_, _| std::future::pending()),
            function("flood", "", any(), hints, |_, _| async { Ok("x".repeat(RESULT_MAX + 1)) }),
        ])
        .expect("a server")
    }

    #[tokio::test(start_paused = true)]
    async fn every_end_of_a_function_is_said() {
        let server = server();
        let failed = |text: &str| Ok(Said { text: text.to_owned(), failed: true });
        let trouble = |fault, sent, detail: &str| Err(Box::new(Trouble { sent, ..*Trouble::sent(fault, detail) }));
        for (tool, expected) in [
            ("echo", Ok(Said { text: "{\"a\":1} under key-1".to_owned(), failed: false })),
            ("refuse", failed("no such city")),
            ("panic", trouble(ToolFault::Died, true, "local/panic: panicked: index out of bounds")),
            ("panic_at_once", trouble(ToolFault::Died, true, "local/panic_at_once: panicked: at once 1")),
            ("hang", trouble(ToolFault::Timeout, true, "local/hang: no answer within 5s")),
            (
                "flood",
                trouble(ToolFault::TooLarge, true, "local/flood: its answer has 65537 bytes; at most 65536 are taken"),
            ),
            ("gone", trouble(ToolFault::Gone, false, "local/gone: there is no such function")),
        ] {
            assert_eq!(server.call(&calling(tool, json!({"a": 1}))).await, expected, "{tool}");
        }
        let mut keyed = calling("echo", json!({"a": 1, "k": "the model's"}));
        keyed.key_place = KeyPlace::Argument("k".to_owned());
        assert_eq!(server.call(&keyed).await.expect("said").text, r#"{"a":1,"k":"key-1"} under key-1"#);
    }

    #[tokio::test]
    async fn a_call_that_is_given_up_ends_the_function() {
        struct Ends(Arc<AtomicBool>);
        impl Drop for Ends {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Release);
            }
        }
        let ended = Arc::new(AtomicBool::new(false));
        let began = Arc::new(tokio::sync::Notify::new());
        let (of_function, begins) = (Arc::clone(&ended), Arc::clone(&began));
        let wait = function("wait", "", any(), Hints::default(), move |_, _| {
            let (ends, begins) = (Ends(Arc::clone(&of_function)), Arc::clone(&begins));
            async move {
                begins.notify_one();
                std::future::pending::<()>().await;
                drop(ends);
                Ok(String::new())
            }
        });
        let server = Local::new([wait]).expect("a server");
        let calling = calling("wait", json!({}));
        tokio::select! {
            _ = server.call(&calling) => panic!("it waits for ever"),
            () = began.notified() => {}
        }
        tokio::task::yield_now().await;
        assert!(ended.load(Ordering::Acquire));
    }

    #[test]
    fn what_cannot_be_offered_is_refused_at_once() {
        let made = |name: &str, schema| {
            Local::new([function(name, "", schema, Hints::default(), |_, _| async { Ok(String::new()) })])
        };
        for name in ["", "two words", "a/b", "http", "http_get", "github__create", "größe"] {
            assert!(matches!(made(name, any()), Err(Error::BadName { .. })), "{name}");
        }
        assert!(matches!(made("a", json!({"type": "strnig"})), Err(Error::BadSchema { .. })));
        let rule = ToolRule { idempotent: Some(true), ..ToolRule::default() };
        let pay =
            function("pay", "", any(), Hints::default(), |_, _| async { Ok(String::new()) }).declared(rule.clone());
        assert_eq!(Local::new([pay]).expect("a server").rule("pay"), Some(rule));
    }
}
