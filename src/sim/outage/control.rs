//! `/_outage`: what the server does, what it did, and another rule while it runs.
//!
//! It changes state by POST alone and listens to this machine alone: a web page must not be able to break somebody's
//! tests, nor to read prompts.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderName, Method, StatusCode, header};
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::house::{House, Room};
use super::serve::Call;
use crate::sim::script::Rule;
use crate::sim::spec::{self, Error};
use crate::time::format_duration;
use crate::visitor;

/// What a POST may say.
const ORDERS: [&str; 4] = ["add", "remove", "clear", "switch"];

/// Answers a request to `/_outage`.
pub(super) fn answer(house: &Arc<House>, peer: SocketAddr, call: &Call) -> Response {
    if let Some(why) = refused(peer, call) {
        return say(StatusCode::FORBIDDEN, &json!({"error": {"message": why}}));
    }
    let method = &call.method;
    match call.uri.path() {
        "/_outage" if method == Method::GET => say(StatusCode::OK, &shown(house)),
        "/_outage" if method == Method::POST => match obeyed(house, &call.body) {
            Ok(()) => say(StatusCode::OK, &shown(house)),
            Err(error) => {
                let error = json!({"error": {"key": error.key, "message": error.to_string()}});
                say(StatusCode::BAD_REQUEST, &error)
            }
        },
        "/_outage/log" if method == Method::GET => say(StatusCode::OK, &log(house)),
        "/_outage" | "/_outage/log" => {
            say(StatusCode::METHOD_NOT_ALLOWED, &json!({"error": {"message": "GET looks, POST to /_outage changes"}}))
        }
        _ => {
            let message = "there are GET /_outage, POST /_outage and GET /_outage/log";
            say(StatusCode::NOT_FOUND, &json!({"error": {"message": message}}))
        }
    }
}

/// Why this caller may not, if so.
fn refused(peer: SocketAddr, call: &Call) -> Option<String> {
    let text = |name: HeaderName| call.headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let host = text(header::HOST).unwrap_or("");
    if !peer.ip().to_canonical().is_loopback() || !visitor::is_loopback(host) {
        return Some("only this machine may look at or change the outage: use 127.0.0.1 or localhost".to_owned());
    }
    let foreign = text(header::ORIGIN).is_some_and(|origin| !visitor::is_own_page(origin, host))
        || text(HeaderName::from_static("sec-fetch-site")).is_some_and(visitor::is_other_site);
    foreign.then(|| "pages of other sites may not look at or change the outage".to_owned())
}

/// Does what a POST says; all of it, or nothing.
fn obeyed(house: &House, body: &[u8]) -> Result<(), Error> {
    let body: Value =
        serde_json::from_slice(body).map_err(|error| Error::new("body", format!("is not JSON: {error}")))?;
    let Some(orders) = body.as_object() else { return Err(Error::new("body", "must be an object")) };
    if let Some(odd) = orders.keys().find(|key| !ORDERS.contains(&key.as_str())) {
        return Err(Error::unknown(odd, odd, &ORDERS));
    }
    if orders.is_empty() {
        return Err(Error::new("body", format!("says nothing; it may say {}", ORDERS.join(", "))));
    }
    let rules = added(orders, house)?;
    let switches = switched(orders)?;
    let clear = match orders.get("clear") {
        None => false,
        Some(clear) => clear.as_bool().ok_or_else(|| Error::new("clear", "must be true or false"))?,
    };
    let mut room = house.room();
    if let Some(name) = orders.get("remove") {
        let name = name.as_str().ok_or_else(|| Error::new("remove", "must be the name of a rule"))?;
        if !room.script.rules.iter().any(|rule| rule.name == name) {
            let names: Vec<&str> = room.script.rules.iter().map(|rule| rule.name.as_str()).collect();
            return Err(Error::unknown("remove", name, &names));
        }
        room.remove(name);
    }
    if clear {
        cleared(&mut room);
    }
    rules.into_iter().rev().for_each(|rule| room.add(rule));
    switches.into_iter().for_each(|(name, on)| room.turns.switch(name, on));
    Ok(())
}

fn cleared(room: &mut Room) {
    let names: Vec<String> = room.script.rules.drain(..).map(|rule| rule.name).collect();
    names.iter().for_each(|name| room.turns.forget(name));
}

/// The rules to add: one, or a list in the order they are tried.
fn added(orders: &Map<String, Value>, house: &House) -> Result<Vec<Rule>, Error> {
    let all = match orders.get("add") {
        None => return Ok(Vec::new()),
        Some(Value::Array(all)) => all.as_slice(),
        Some(one) => std::slice::from_ref(one),
    };
    let rule = |rule: &Value| match rule.as_object() {
        Some(fields) => spec::rule(fields, house.elapsed()),
        None => Err(Error::new("add", "must be a rule, such as {\"fault\": \"overloaded\"}, or a list of rules")),
    };
    all.iter().map(rule).collect()
}

fn switched(orders: &Map<String, Value>) -> Result<Vec<(&str, bool)>, Error> {
    let wrong = || Error::new("switch", "must name switches, such as {\"outage\": true}");
    let all = match orders.get("switch") {
        None => return Ok(Vec::new()),
        Some(all) => all.as_object().ok_or_else(wrong)?,
    };
    all.iter().map(|(name, on)| Ok((name.as_str(), on.as_bool().ok_or_else(wrong)?))).collect()
}

/// The rules in the order they are tried, and how many requests there were.
fn shown(house: &House) -> Value {
    let elapsed = format_duration(house.elapsed());
    let room = house.room();
    json!({
        "elapsed": elapsed, "seed": room.script.seed, "speed": house.speed,
        "upstream": house.upstream.as_ref().map(|upstream| upstream.shown()),
        "rules": room.script.rules.iter().map(spec::shown).collect::<Vec<_>>(),
        "switches": room.turns.switches().collect::<Vec<_>>(),
        "counters": room.counters.shown(),
    })
}

/// The latest requests, newest last.
fn log(house: &House) -> Value {
    let room = house.room();
    let requests: Vec<Value> = room.served.iter().map(|one| one.shown()).collect();
    json!({"counters": room.counters.shown(), "requests": requests})
}

fn say(status: StatusCode, body: &Value) -> Response {
    let response = Response::builder().status(status).header("content-type", "application/json");
    response.body(Body::from(format!("{body:#}\n"))).unwrap_or_else(|_| Response::new(Body::empty()))
}
