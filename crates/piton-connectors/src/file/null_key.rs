//! Lets the key `null` be written without quotes in YAML, where a bare `null` is no text.

use std::fmt;

use serde::{
    Deserializer,
    de::{self, DeserializeSeed, IntoDeserializer, MapAccess, Visitor, value},
};

/// Deserialises a map in which a key that is null stands for the text `null`.
pub(super) struct NullKey<D>(pub(super) D);

impl<'de, D: Deserializer<'de>> Deserializer<'de> for NullKey<D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_map(Map(visitor))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier
        ignored_any
    }
}

struct Map<T>(T);

impl<'de, V: Visitor<'de>> Visitor<'de> for Map<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(f)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<V::Value, A::Error> {
        self.0.visit_map(Map(map))
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Map<A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, A::Error> {
        self.0.next_key_seed(Key(seed))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.0.next_value_seed(seed)
    }
}

struct Key<K>(K);

impl<'de, K: DeserializeSeed<'de>> DeserializeSeed<'de> for Key<K> {
    type Value = K::Value;

    fn deserialize<D: Deserializer<'de>>(self, key: D) -> Result<K::Value, D::Error> {
        key.deserialize_any(self)
    }
}

impl<'de, K: DeserializeSeed<'de>> Visitor<'de> for Key<K> {
    type Value = K::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: de::Error>(self, key: &str) -> Result<K::Value, E> {
        let key: value::StrDeserializer<'_, E> = key.into_deserializer();
        self.0.deserialize(key)
    }

    fn visit_unit<E: de::Error>(self) -> Result<K::Value, E> {
        self.visit_str("null")
    }

    fn visit_none<E: de::Error>(self) -> Result<K::Value, E> {
        self.visit_str("null")
    }
}

#[cfg(test)]
mod tests {
    use crate::file::CsvSettings;

    #[test]
    fn null_needs_no_quotes() {
        for text in ["{path: a, null: NA}", "path: a\n\"null\": NA", "path: a\n~: NA"] {
            let settings: CsvSettings = serde_saphyr::from_str(text).unwrap();
            assert_eq!(settings.null.as_deref(), Some("NA"), "{text}");
        }
        let error = serde_saphyr::from_str::<CsvSettings>("path: a\nnul: NA").unwrap_err();
        assert!(error.to_string().contains("line 2 column 1: unknown field `nul`"), "{error}");
    }
}
