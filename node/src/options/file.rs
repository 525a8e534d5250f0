//! The TOML layer: every value with the line it stands on; a key the table does not know is refused. Pure.

use super::table::{find, nearest, nearest_table};
use super::{ConfigError, Origin, Said, TABLE};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// All values of the file, in the file's order of keys.
pub(super) fn read(path: &str, text: &str) -> Result<Vec<Said>, ConfigError> {
    let file = File { path, text };
    let table = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        file.error("TOML", at, error.message().to_string(), String::new())
    })?;
    let mut said = Vec::new();
    file.walk("", table.get_ref(), &mut said)?;
    Ok(said)
}

struct File<'a> {
    path: &'a str,
    text: &'a str,
}

impl File<'_> {
    fn origin(&self, at: usize) -> Origin {
        let line = 1 + self.text.bytes().take(at).filter(|byte| *byte == b'\n').count();
        Origin::File {
            path: self.path.to_string(),
            line,
        }
    }

    fn error(&self, key: &str, at: usize, problem: String, hint: String) -> ConfigError {
        ConfigError {
            key: key.to_string(),
            origin: self.origin(at),
            problem,
            hint,
        }
    }

    fn walk(&self, prefix: &str, table: &DeTable<'_>, said: &mut Vec<Said>) -> Result<(), ConfigError> {
        for (name, value) in table {
            let key = format!("{prefix}{}", name.get_ref());
            let at = name.span().start;
            match (find(&key), value.get_ref()) {
                (Some(spec), _) => {
                    let text = self.scalar(&key, value)?;
                    said.push(Said {
                        spec,
                        text,
                        origin: self.origin(at),
                    });
                }
                (None, DeValue::Table(inner)) if is_table(&key) => {
                    self.walk(&format!("{key}."), inner, said)?;
                }
                (None, DeValue::Table(_)) => return Err(self.unknown(&key, at, nearest_table(&key))),
                (None, _) => return Err(self.unknown(&key, at, None)),
            }
        }
        Ok(())
    }

    fn unknown(&self, key: &str, at: usize, table: Option<&str>) -> ConfigError {
        let hint = match (table, nearest(key)) {
            (Some(near), _) => format!("did you mean `[{near}]`?"),
            (None, Some(near)) => format!("did you mean `{near}`?"),
            (None, None) => "`flotilla start --help` lists all options".to_string(),
        };
        self.error(key, at, "there is no such option".to_string(), hint)
    }

    /// The value as the user would write it in a flag.
    fn scalar(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Result<String, ConfigError> {
        let text = match value.get_ref() {
            DeValue::String(text) => Some(text.to_string()),
            DeValue::Integer(number) => Some(number.to_string()),
            DeValue::Boolean(on) => Some(on.to_string()),
            DeValue::Array(items) => return self.list(key, items),
            DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Table(_) => None,
        };
        let spec = find(key).expect("only known keys have values");
        text.ok_or_else(|| {
            let at = value.span().start;
            self.error(
                key,
                at,
                format!("a value of the wrong type: {} is expected", spec.form),
                String::new(),
            )
        })
    }

    /// A list is the comma-separated text of its items, so no item may hold a comma itself.
    fn list(&self, key: &str, items: &[Spanned<DeValue<'_>>]) -> Result<String, ConfigError> {
        let mut texts = Vec::new();
        for item in items {
            let text = self.scalar(key, item)?;
            if text.contains(',') {
                let hint = "in keys, write the comma as bytes: hex:2c".to_string();
                return Err(self.error(key, item.span().start, format!("`{text}` holds a comma"), hint));
            }
            texts.push(text);
        }
        Ok(texts.join(","))
    }
}

/// Whether some option lives in the table of this name.
fn is_table(name: &str) -> bool {
    TABLE
        .iter()
        .any(|spec| spec.key.split_once('.').is_some_and(|(table, _)| table == name))
}
