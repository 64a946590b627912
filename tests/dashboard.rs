//! The dashboard in deploy/grafana asks for metrics that the program has.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn sources(dir: &Path, into: &mut String) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
}

/// Every expression below a value.
fn expressions(value: &serde_json::Value, into: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(map) => {
            for (key, value) in map {
                match value.as_str().filter(|_| ["expr", "definition"].contains(&key.as_str())) {
                    Some(text) => into.push(text.to_owned()),
                    None => expressions(value, into),
                }
            }
        }
        serde_json::Value::Array(list) => list.iter().for_each(|v| expressions(v, into)),
        _ => {}
    }
}

#[test]
fn every_metric_of_the_dashboard_is_exported() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("deploy/grafana/attendant.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&text).unwrap();
    let (mut code, mut asked) = (String::new(), Vec::new());
    sources(&root.join("src"), &mut code);
    expressions(&dashboard, &mut asked);
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let names: BTreeSet<&str> =
        asked.iter().flat_map(|e| e.split(|c| !is_name(c))).filter(|word| word.starts_with("attendant_")).collect();
    assert!(names.len() > 20, "the metrics were not found: {names:?}");
    for name in names {
        let base = name.trim_end_matches("_bucket");
        assert!(code.contains(&format!("\"{base}\"")), "{name} is asked for by the dashboard and exported by nobody");
    }
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<u64> = panels.iter().map(|p| p["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "ids of panels are unique");
}
