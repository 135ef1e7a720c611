//! Values of the file that have several forms: a word or a map, a list or a map. How each is read,
//! and how it is described to editors.

use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};

use super::file::{
    CheckpointFile, CheckpointMap, FlattenFile, OnComplete, OnErrorFile, Pairs, Refused, RetryMap,
    SelectFile,
};
use super::job::file::ActionFile;

/// Deserializes a type that is a word or a map, or a list or a map, without the guessing of an
/// untagged enum, which forgets where in the file an error is.
macro_rules! forms {
    ($type:ident, $expecting:literal, $($visit:item)+) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Forms;

                impl<'de> Visitor<'de> for Forms {
                    type Value = $type;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }

                    $($visit)+
                }

                deserializer.deserialize_any(Forms)
            }
        }
    };
}

forms! {
    SelectFile,
    "a list of names, or a map from names to expressions",
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<SelectFile, A::Error> {
        let mut names = Vec::new();
        while let Some(name) = seq.next_element()? {
            names.push(name);
        }
        Ok(SelectFile::Names(names))
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<SelectFile, A::Error> {
        Pairs::deserialize(MapAccessDeserializer::new(map)).map(SelectFile::Computed)
    }
}

forms! {
    Pairs,
    "a map of texts",
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry()? {
            pairs.push(pair);
        }
        Ok(Pairs(pairs))
    }
}

/// A field to flatten and what to put between its name and an object's own.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FlattenMap {
    /// The field that holds an object or a list.
    field: String,
    /// Stands between the field's name and an object's own.
    #[serde(default = "underscore")]
    separator: String,
}

fn underscore() -> String {
    "_".to_owned()
}

forms! {
    FlattenFile,
    "the name of a field, or {field, separator}",
    fn visit_str<E>(self, field: &str) -> Result<FlattenFile, E> {
        Ok(FlattenFile { field: field.to_owned(), separator: underscore() })
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<FlattenFile, A::Error> {
        let FlattenMap { field, separator } =
            Deserialize::deserialize(MapAccessDeserializer::new(map))?;
        Ok(FlattenFile { field, separator })
    }
}

forms! {
    CheckpointFile,
    "a map such as {max_replay: 10s} or {every: 5s}, or off",
    fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<CheckpointFile, E> {
        match word {
            "off" => Ok(CheckpointFile::Off),
            other => Err(E::unknown_variant(other, &["off"])),
        }
    }
    // What other readers of YAML make of `off`.
    fn visit_bool<E: serde::de::Error>(self, on: bool) -> Result<CheckpointFile, E> {
        if on { Ok(CheckpointFile::Default) } else { Ok(CheckpointFile::Off) }
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<CheckpointFile, A::Error> {
        Deserialize::deserialize(MapAccessDeserializer::new(map)).map(CheckpointFile::Set)
    }
}

forms! {
    OnErrorFile,
    "stop, dead_letter, or {retry: 5, then: stop}",
    fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<OnErrorFile, E> {
        use serde::de::IntoDeserializer;
        Refused::deserialize(word.into_deserializer()).map(OnErrorFile::At)
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<OnErrorFile, A::Error> {
        Deserialize::deserialize(MapAccessDeserializer::new(map)).map(OnErrorFile::Retry)
    }
}

/// What happens when all steps of a job are done: a word, or an action.
#[derive(Debug, Default)]
pub(super) enum OnJobCompleteFile {
    #[default]
    Keep,
    Delete,
    Action(ActionFile),
}

forms! {
    OnJobCompleteFile,
    "keep, delete, or an action such as {run: [./tell]}",
    fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<OnJobCompleteFile, E> {
        use serde::de::IntoDeserializer;
        Ok(match OnComplete::deserialize(word.into_deserializer())? {
            OnComplete::Keep => OnJobCompleteFile::Keep,
            OnComplete::Delete => OnJobCompleteFile::Delete,
        })
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<OnJobCompleteFile, A::Error> {
        Deserialize::deserialize(MapAccessDeserializer::new(map)).map(OnJobCompleteFile::Action)
    }
}

/// Describes a type by hand.
macro_rules! described {
    ($type:ident, |$generator:ident| $schema:expr) => {
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).trim_end_matches("File").into()
            }

            fn json_schema($generator: &mut SchemaGenerator) -> Schema {
                $schema
            }
        }
    };
}

described!(Pairs, |_generator| json_schema!({
    "type": "object",
    "minProperties": 1,
    "additionalProperties": {"type": ["string", "number", "boolean"]},
}));

described!(SelectFile, |generator| json_schema!({
    "description": "The fields to keep, in this order, or columns with their expressions.",
    "anyOf": [
        {"type": "array", "items": {"type": "string"}, "minItems": 1},
        generator.subschema_for::<Pairs>(),
    ],
}));

described!(FlattenFile, |generator| json_schema!({
    "description": "The field that holds an object or a list.",
    "anyOf": [{"type": "string"}, generator.subschema_for::<FlattenMap>()],
}));

described!(CheckpointFile, |generator| json_schema!({
    "description": "How often to save: within bounds, at a fixed interval, or only at the end.",
    "anyOf": [{"const": "off"}, generator.subschema_for::<CheckpointMap>()],
}));

described!(OnErrorFile, |generator| json_schema!({
    "description": "What happens to a record that cannot be read, transformed or written.",
    "anyOf": [generator.subschema_for::<Refused>(), generator.subschema_for::<RetryMap>()],
}));

described!(OnJobCompleteFile, |generator| json_schema!({
    "description": "What happens when all steps are done.",
    "anyOf": [generator.subschema_for::<OnComplete>(), generator.subschema_for::<ActionFile>()],
}));
