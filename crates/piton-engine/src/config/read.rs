//! From the tree to the settings: a serde deserializer whose errors know their place and path.
//!
//! Text and numbers are read generously where a file leaves no doubt: a number where text is needed
//! is the text as it is written, and text that was filled in from the environment may stand for a
//! number or a truth value.

use std::fmt;

use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error as _, Expected,
    IntoDeserializer, MapAccess, SeqAccess, Unexpected, VariantAccess, Visitor,
    value::StrDeserializer,
};

use super::{
    error::{Condition, Place, Problem},
    tree::{Key, Node, Text, Value},
};

/// Reads settings from a tree.
pub(super) fn read<T: DeserializeOwned>(root: &Node) -> Result<T, Problem> {
    T::deserialize(Reader(root)).map_err(|fault| {
        let fault = fault.at(root);
        Problem { at: fault.at.unwrap_or(root.at), what: fault.what }
    })
}

/// As [`read`], of a part of the file at a path.
pub(super) fn read_under<T: DeserializeOwned>(path: &[&str], node: &Node) -> Result<T, Problem> {
    T::deserialize(Reader(node)).map_err(|fault| {
        let fault = path.iter().rev().fold(fault.at(node), |fault, key| fault.within(key));
        Problem { at: node.at, what: fault.what }
    })
}

/// An error on its way up, gathering place and path.
#[derive(Debug)]
pub(super) struct Fault {
    what: Condition,
    at: Option<Place>,
}

impl Fault {
    /// Sets the place, and what was found there, if nothing deeper did.
    fn at(mut self, node: &Node) -> Self {
        if self.at.is_some() {
            return self;
        }
        self.at = Some(node.at);
        match &mut self.what {
            Condition::WrongType { found, .. } => *found = node.shown(),
            Condition::UnknownValue { value, .. } if node.is_secret() => *value = node.shown(),
            Condition::Invalid { why, .. } if node.is_secret() => {
                *why = format!("what {} stands for cannot be used here", node.shown());
            }
            _ => {}
        }
        self
    }

    /// Puts a key before the path.
    fn within(mut self, key: &str) -> Self {
        self.what = self.what.under(key);
        self
    }
}

impl std::error::Error for Fault {}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.what.fmt(f)
    }
}

impl From<Condition> for Fault {
    fn from(what: Condition) -> Self {
        Self { what, at: None }
    }
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Condition::Invalid { path: String::new(), why: message.to_string() }.into()
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let (expected, found) = (in_plain_words(&expected.to_string()), found.to_string());
        Condition::WrongType { path: String::new(), expected, found }.into()
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let (value, known) = (variant.to_owned(), owned(expected));
        Condition::UnknownValue { path: String::new(), value, known }.into()
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let (key, known) = (field.to_owned(), owned(expected));
        Condition::UnknownKey { key, path: String::new(), known }.into()
    }

    fn missing_field(field: &'static str) -> Self {
        Condition::Missing { key: field.to_owned(), path: String::new() }.into()
    }

    fn duplicate_field(field: &'static str) -> Self {
        Condition::Duplicate { key: field.to_owned() }.into()
    }
}

/// serde names Rust's types.
fn in_plain_words(expected: &str) -> String {
    let words = match expected {
        "a string" => "text",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a character" => "a single character",
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number, 0 or more",
        other if other.starts_with("a nonzero u") => "a whole number, 1 or more",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        other if other.starts_with("struct ") => "a map of settings",
        other => other,
    };
    words.to_owned()
}

/// Reads one value.
#[derive(Clone, Copy)]
struct Reader<'a>(&'a Node);

impl<'a> Reader<'a> {
    /// Text that was filled in, which may stand for any scalar.
    fn filled(self) -> Option<&'a str> {
        match &self.0.value {
            Value::Text(Text { value: text, filled: Some(_), .. }) => Some(text.trim()),
            _ => None,
        }
    }

    fn number<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let int = match (&self.0.value, self.filled()) {
            (Value::Int(int, _), _) => Some(*int),
            (_, Some(text)) => text.parse().ok(),
            _ => None,
        };
        let float = || self.filled().and_then(|text| text.parse().ok());
        let result = match int {
            Some(int) => visit_int(int, visitor),
            None => match float() {
                Some(float) => visitor.visit_f64(float),
                None => self.any(visitor),
            },
        };
        result.map_err(|fault| fault.at(self.0))
    }

    fn text<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let result = match &self.0.value {
            Value::Text(text) => visitor.visit_str(&text.value),
            Value::Int(_, raw) | Value::Float(_, raw) => visitor.visit_str(raw),
            Value::Bool(b) => visitor.visit_str(if *b { "true" } else { "false" }),
            Value::Null | Value::List(_) | Value::Map(_) => self.any(visitor),
        };
        result.map_err(|fault| fault.at(self.0))
    }

    fn any<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let result = match &self.0.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(b) => visitor.visit_bool(*b),
            Value::Int(int, _) => visit_int(*int, visitor),
            Value::Float(float, _) => visitor.visit_f64(*float),
            Value::Text(text) => visitor.visit_str(&text.value),
            Value::List(items) => visitor.visit_seq(Items(items.iter().enumerate())),
            Value::Map(entries) => visitor.visit_map(Entries { rest: entries.iter(), value: None }),
        };
        result.map_err(|fault| fault.at(self.0))
    }
}

fn visit_int<'de, V: Visitor<'de>>(int: i128, visitor: V) -> Result<V::Value, Fault> {
    match (u64::try_from(int), i64::try_from(int)) {
        (Ok(int), _) => visitor.visit_u64(int),
        (_, Ok(int)) => visitor.visit_i64(int),
        _ => visitor.visit_i128(int),
    }
}

macro_rules! forward {
    ($to:ident: $($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            self.$to(visitor)
        }
    )*};
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = Fault;

    forward!(number: deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_i128 deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
        deserialize_u128 deserialize_f32 deserialize_f64);
    forward!(text: deserialize_char deserialize_str deserialize_string deserialize_identifier);
    forward!(any: deserialize_any deserialize_bytes deserialize_byte_buf deserialize_unit
        deserialize_seq deserialize_map deserialize_ignored_any);

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let result = match self.filled() {
            Some("true") => visitor.visit_bool(true),
            Some("false") => visitor.visit_bool(false),
            _ => return self.any(visitor),
        };
        result.map_err(|fault: Fault| fault.at(self.0))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.0.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.any(visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Fault> {
        self.any(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.any(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match &self.0.value {
            Value::Map(_) => self.any(visitor),
            // A struct could be read from a list, which nobody means.
            _ => Err(Fault::invalid_type(Unexpected::Unit, &"a map of settings").at(self.0)),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let result = match &self.0.value {
            Value::Text(text) => visitor.visit_enum(Variant { name: &text.value, content: None }),
            Value::Map(entries) => {
                if let [(key, content)] = entries.as_slice() {
                    visitor.visit_enum(Variant { name: &key.name, content: Some((key, content)) })
                } else {
                    let why = format!("needs exactly one of {}", variants.join(", "));
                    Err(Condition::Invalid { path: String::new(), why }.into())
                }
            }
            _ => {
                let words = format!("one of {}", variants.join(", "));
                Err(Fault::invalid_type(Unexpected::Unit, &words.as_str()))
            }
        };
        result.map_err(|fault| fault.at(self.0))
    }
}

/// The items of a list.
struct Items<'a>(std::iter::Enumerate<std::slice::Iter<'a, Node>>);

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Fault> {
        let Some((index, node)) = self.0.next() else { return Ok(None) };
        let read = seed.deserialize(Reader(node));
        read.map(Some).map_err(|fault| fault.at(node).within(&(index + 1).to_string()))
    }
}

/// The entries of a map.
struct Entries<'a> {
    rest: std::slice::Iter<'a, (Key, Node)>,
    value: Option<&'a (Key, Node)>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Fault> {
        self.value = self.rest.next();
        let Some((key, _)) = self.value else { return Ok(None) };
        let reader: StrDeserializer<'_, Fault> = key.name.as_str().into_deserializer();
        let read = seed.deserialize(reader);
        read.map(Some).map_err(|fault| Fault { at: fault.at.or(Some(key.at)), ..fault })
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Fault> {
        let Some((key, node)) = self.value.take() else {
            return Err(Fault::custom("a value without a key"));
        };
        seed.deserialize(Reader(node)).map_err(|fault| fault.at(node).within(&key.name))
    }
}

/// A variant of an enum: a word, or a map of one entry.
struct Variant<'a> {
    name: &'a str,
    content: Option<(&'a Key, &'a Node)>,
}

impl<'de, 'a> EnumAccess<'de> for Variant<'a> {
    type Error = Fault;
    type Variant = Content<'a>;

    fn variant_seed<V: DeserializeSeed<'de>>(
        self,
        seed: V,
    ) -> Result<(V::Value, Content<'a>), Fault> {
        let reader: StrDeserializer<'_, Fault> = self.name.into_deserializer();
        let variant = seed.deserialize(reader).map_err(|fault| match self.content {
            Some((key, _)) => Fault { at: Some(key.at), what: as_key(fault.what) },
            None => fault,
        })?;
        Ok((variant, Content(self.content)))
    }
}

/// A map's only key is a key to the one who wrote it.
fn as_key(what: Condition) -> Condition {
    match what {
        Condition::UnknownValue { path, value, known } => {
            Condition::UnknownKey { key: value, path, known }
        }
        other => other,
    }
}

struct Content<'a>(Option<(&'a Key, &'a Node)>);

impl<'de> VariantAccess<'de> for Content<'_> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        match self.0 {
            None => Ok(()),
            Some((key, node)) => Err(Fault::invalid_type(Unexpected::Unit, &"no settings")
                .at(node)
                .within(&key.name)),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Fault> {
        let Some((key, node)) = self.0 else {
            return Err(Fault::invalid_type(Unexpected::Unit, &"a map of settings"));
        };
        seed.deserialize(Reader(node)).map_err(|fault| fault.at(node).within(&key.name))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Fault> {
        self.struct_variant(&[], visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let Some((key, node)) = self.0 else {
            return Err(Fault::invalid_type(Unexpected::Unit, &"a map of settings"));
        };
        Reader(node).any(visitor).map_err(|fault| fault.at(node).within(&key.name))
    }
}
