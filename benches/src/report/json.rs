//! A record as JSON, in [`crate::record`]'s own form.

use anyhow::{Context, Result, ensure};

use crate::record::{Record, SCHEMA};

/// The record as text.
///
/// # Errors
/// None that a record of this program's has.
pub fn write(record: &Record) -> Result<String> {
    Ok(serde_json::to_string_pretty(record)? + "\n")
}

/// The record that `text` is.
///
/// # Errors
/// It is none, or one of another version.
pub fn read(text: &str) -> Result<Record> {
    let value: serde_json::Value = serde_json::from_str(text).context("not JSON")?;
    let schema = value.get("schema").and_then(serde_json::Value::as_u64);
    ensure!(
        schema == Some(u64::from(SCHEMA)),
        "these figures have another form ({}) than this program's ({SCHEMA})\n\
         hint: measure again",
        schema.map_or("none".into(), |schema| schema.to_string())
    );
    serde_json::from_value(value).context("these figures are not complete")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn what_is_written_is_read_again() {
        let record = sample::record();
        assert_eq!(read(&write(&record).unwrap()).unwrap(), record);
    }

    #[test]
    fn another_version_is_refused_in_words() {
        let text = write(&sample::record()).unwrap().replace("\"schema\": 1", "\"schema\": 99");
        assert!(read(&text).unwrap_err().to_string().contains("another form (99)"));
        assert!(read("{}").unwrap_err().to_string().contains("another form (none)"));
        assert!(read("no").is_err());
    }
}
