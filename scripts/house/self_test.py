"""Checks the checks, on small crates that are made up for it."""

import contextlib
import tempfile
import textwrap
import unittest
from pathlib import Path

from . import budgets, crates, figures, imports, layers
from .items import Reader
from .tokens import tokens_of


@contextlib.contextmanager
def made_up(files, name="punch-x", dependencies=(), roots=("src/lib.rs",)):
    """A crate of the given files."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place).resolve()
        for path, text in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(textwrap.dedent(text), encoding="utf-8")
        crate = crates.Crate(name, folder, "x", list(dependencies))
        (folder / "clippy.toml").write_text('disallowed-methods = ["std::time::Instant::now"]', encoding="utf-8")
        yield crate.read([(root, folder / root, root.endswith("lib.rs")) for root in roots])


def circles_of(**modules):
    """The circles between modules that are given as NAME=CODE; `lib` is the root, and `__` stands for a folder."""
    files = {f"src/{name.replace('__', '/')}.rs": text for name, text in modules.items()}
    with made_up(files) as crate:
        return [(parent, group) for _, parent, group, _ in imports.cycles(crate)]


def items_of(text):
    return Reader(tokens_of(textwrap.dedent(text))).items()


def keys_of(files, exceptions=()):
    with made_up(files) as crate:
        return {offence.key for offence in budgets.offences(crate, exceptions)}


DOCUMENTED = "//! A crate made up for a test.\n"


class Tokens(unittest.TestCase):
    def test_what_only_looks_like_code_is_none(self):
        text = r'''
        // fn a() {}
        /* fn b() /* nested */ { */
        const C: &str = "fn d() { \" }";
        const E: &[u8] = br##"fn f() { "# }"##;
        const G: char = '"'; const H: char = '\''; const I: u8 = b'{'; const J: char = '\u{7b}';
        fn k<'a>(l: &'a str) -> &'a str { l }
        '''
        self.assertEqual([item.name for item in items_of(text)], ["C", "E", "G", "H", "I", "J", "k"])

    def test_lines_are_counted_through_literals_and_comments(self):
        tokens = tokens_of('/* 1\n2 */ "3\n4" r#"5\n6"# here')
        self.assertEqual([(token.line, token.last) for token in tokens], [(1, 2), (2, 3), (3, 4), (4, 4)])


class Items(unittest.TestCase):
    def test_all_kinds_are_found_behind_attributes_and_generics(self):
        found = items_of('''
            #![warn(missing_docs)]
            /// A struct.
            #[derive(Debug)]
            pub struct A<T: Fn(u8) -> u8, const N: usize> where T: Clone { pub a: [T; N], b: HashMap<u8, (T, T)>, }
            pub(crate) struct B(u8, pub Vec<(u8, u8)>);
            pub enum C { D, E { f: u8, g: Map<u8, u8> }, F(u8), G = 1 << 3, H }
            pub const fn h(a: *const u8) -> [u8; 4] { let x = a as *const u8; fn inside() {} [0; 4] }
            unsafe impl<T: for<'a> Fn(&'a u8)> super::I<T> for crate::j::J<T> where T: Send { fn k() {} }
            impl J { pub fn l(&self) {} }
            pub trait M { fn n(); fn o() {} }
            static mut P: u8 = { 3 };
            macro_rules! q { () => { fn never() {} } }
            q!{}
            extern "C" { fn r(); }
            type S = u8;
        ''')
        self.assertEqual([(item.kind, item.name) for item in found],
                         [("struct", "A"), ("struct", "B"), ("enum", "C"), ("fn", "h"), ("impl", "J"), ("impl", "J"), ("trait", "M"),
                          ("static", "P"), ("macro", "q"), ("extern", "{"), ("type", "S")])
        self.assertEqual(found[0].docs, ["A struct."])
        self.assertEqual([(field.name, field.public) for field in found[0].children], [("a", True), ("b", False)])
        self.assertEqual(len(found[1].children), 2)
        self.assertEqual([(variant.name, len(variant.children)) for variant in found[2].children],
                         [("D", 0), ("E", 2), ("F", 1), ("G", 0), ("H", 0)])
        self.assertEqual([item.name for item in found[3].children], ["inside"])
        self.assertEqual((found[4].of_trait, found[4].paths), (True, [("crate", "j", "J")]))
        self.assertEqual((found[5].of_trait, found[5].paths), (False, [("J",)]))
        self.assertEqual([item.body for item in found[6].children], [False, True])

    def test_an_import_is_taken_apart(self):
        (found,) = items_of("pub use crate::{a, b::{self, C as D, e::*}, f::G};")
        self.assertEqual(found.paths, [(("crate", "a"), "a"), (("crate", "b"), "b"), (("crate", "b", "C"), "D"),
                                       (("crate", "b", "e"), "*"), (("crate", "f", "G"), "G")])

    def test_what_is_compiled_for_tests_is_told_from_what_is_not(self):
        found = items_of('''
            #[cfg(test)] mod a { fn b() {} }
            #[cfg(all(test, unix))] fn c() {}
            #[test] fn d() {}
            #[tokio::test] fn e() {}
            #[cfg(not(test))] fn f() {}
            #[cfg(feature = "test")] fn g() {}
        ''')
        self.assertEqual([item.test for item in found], [True, True, True, True, False, False])
        self.assertTrue(found[0].children[0].test)


class Circles(unittest.TestCase):
    def test_two_modules_that_import_each_other_are_one(self):
        self.assertEqual(circles_of(lib="mod a; mod b;", a="use crate::b::B; pub struct A;", b="use super::a::A; pub struct B;"),
                         [("crate", ["a", "b"])])

    def test_a_chain_is_none(self):
        self.assertEqual(circles_of(lib="mod a; mod b; mod c;", a="use crate::b::B;", b="use crate::c::C; pub struct B;", c="pub struct C;"), [])

    def test_a_path_in_code_counts_as_an_import(self):
        self.assertEqual(circles_of(lib="mod a; mod b; mod c;", a="fn a() { crate::b::b() }", b="pub fn b() { let x = vec![super::c::C]; }",
                                    c="pub struct C; impl C { fn c(self) { use crate::a; } }"), [("crate", ["a", "b", "c"])])

    def test_a_name_that_lib_exports_again_leads_to_the_module_that_declares_it(self):
        code = dict(lib="mod a; mod b; pub use a::A; pub use b::*;", a="use crate::B; pub struct A;", b="use crate::A; pub struct B;")
        self.assertEqual(circles_of(**code), [("crate", ["a", "b"])])
        code["b"] = "pub struct B;"
        self.assertEqual(circles_of(**code), [])

    def test_what_stands_in_comments_strings_and_tests_counts_for_nothing(self):
        self.assertEqual(circles_of(lib="mod a; mod b;", a="use crate::b::B; pub struct A;", b='''
            //! See [`crate::a::A`].
            pub struct B; const C: &str = "crate::a::A";
            #[cfg(test)] use crate::a::A;
            #[cfg(test)] mod tests { use crate::a::A; }
        '''), [])

    def test_a_module_inside_of_another_uses_for_it(self):
        self.assertEqual(circles_of(lib="mod a; mod b;", a="mod c; pub struct A;", a__c="use crate::b::B;", b="use crate::a::A; pub struct B;"),
                         [("crate", ["a", "b"])])

    def test_circles_below_the_root_are_found_and_one_of_parent_and_child_is_none(self):
        self.assertEqual(circles_of(lib="mod a;", a="mod c; mod d; pub struct A; fn f() { c::c() }", a__c="use super::{A, d}; pub fn c() {}",
                                    a__d="use super::c; pub fn d() {}"), [("crate::a", ["c", "d"])])

    def test_the_parents_own_imports_lead_on(self):
        self.assertEqual(circles_of(lib="mod a;", a="mod c; mod d; use c::C; use d::D;", a__c="use super::D; pub struct C;",
                                    a__d="use super::*; pub struct D(C);"), [("crate::a", ["c", "d"])])

    def test_modules_in_one_file_are_modules(self):
        self.assertEqual(circles_of(lib="mod a { pub fn a() { super::b::b() } } mod b { pub fn b() { crate::a::a() } }"), [("crate", ["a", "b"])])

    def test_another_crate_of_the_same_name_is_none_of_ours(self):
        self.assertEqual(circles_of(lib="mod a; mod b;", a="use crate::b::B; use bytes::Bytes;", b="use ::a::A; pub struct B; fn f(x: X) { x.a() }"), [])

    def test_a_file_that_a_path_names_is_read(self):
        self.assertEqual(circles_of(lib='#[path = "other.rs"] mod a; mod b;', other="use crate::b::B; pub struct A;",
                                    b="use crate::a::A; pub struct B;"), [("crate", ["a", "b"])])

    def test_a_module_without_a_file_is_told(self):
        with self.assertRaisesRegex(crates.Unreadable, "src/lib.rs:1: there is no file for `mod a`"):
            circles_of(lib="mod a;")


class Budgets(unittest.TestCase):
    def test_files_are_counted_without_their_tests(self):
        tests = "#[cfg(test)]\nmod tests {\n" + "    // a test\n" * 50 + "}\n"
        exact = DOCUMENTED + "// a line\n" * 599
        self.assertEqual(keys_of({"src/lib.rs": exact + tests}), set())
        self.assertEqual(keys_of({"src/lib.rs": exact + "// one more\n" + tests}), {"file x/src/lib.rs"})

    def test_functions_are_measured_from_their_first_to_their_last_line(self):
        def long(lines):
            return DOCUMENTED + "mod a { struct B; impl B { fn c() {\n" + "f();\n" * (lines - 2) + "} } }\n"

        self.assertEqual(keys_of({"src/lib.rs": long(80)}), set())
        self.assertEqual(keys_of({"src/lib.rs": long(81)}), {"function x/src/lib.rs B::c"})
        self.assertEqual(keys_of({"src/lib.rs": long(81)}, {"x/src/lib.rs B::c"}), set())
        self.assertEqual(keys_of({"src/lib.rs": "#[cfg(test)]" + long(81).removeprefix(DOCUMENTED)}), set())

    def test_fields_are_counted_in_structs_tuples_and_variants(self):
        def fields(count, before="", after=": Map<u8, u8>"):
            return ", ".join(f"{before}f{number}{after}" for number in range(count))

        tests = "#[cfg(test)] t: u8"
        self.assertEqual(keys_of({"src/lib.rs": f"struct A {{ {fields(15)}, {tests} }} struct B({fields(15, after='')});"}), set())
        code = f"struct A {{ {fields(16)} }} struct B({fields(16, after='')}); enum C {{ D {{ {fields(16)} }} }}"
        self.assertEqual(keys_of({"src/lib.rs": code}), {f"struct x/src/lib.rs {name}" for name in ("A", "B", "C::D")})

    def test_methods_in_two_files_are_told_and_traits_are_not(self):
        files = {"src/lib.rs": "mod a; struct A; impl A {}", "src/a.rs": "use super::A; impl Drop for A {}"}
        self.assertEqual(keys_of(files), set())
        files["src/a.rs"] += "impl crate::A {}"
        self.assertEqual(keys_of(files), {"spread x/src/lib.rs A"})

    def test_everything_public_says_more_than_a_word(self):
        self.assertEqual(keys_of({"src/a.rs": "pub fn g() {}", "src/lib.rs": '''
            pub mod a;
            /// A structure.
            pub struct A { /// Who.
                pub b: u8, c: u8, pub(crate) d: u8 }
            /// Some kinds.
            pub enum E { F, /// The second one.
                G { h: u8 } }
            pub(crate) fn i() { pub fn j() {} }
            impl A { #[doc = "Does something."] pub fn k() {} fn l() {} }
            impl Drop for A { fn drop(&mut self) {} }
            /// A promise.
            pub trait M { fn n(); }
            #[cfg(test)] pub fn o() {}
        '''}), {f"docs x/src/{rest}" for rest in ("lib.rs a", "a.rs g", "lib.rs A::b", "lib.rs E::F", "lib.rs E::G::h", "lib.rs M::n")})


class Layers(unittest.TestCase):
    ROOMS = {"punch-x": "punch-y"}

    def complaints(self, crate, only=(), long_functions=(), known=(), tests=()):
        return list(layers.complaints([crate], tests, self.ROOMS, ["punch-x"], ["tokio"], only, long_functions, set(known)))

    def test_a_room_imports_what_it_may(self):
        with made_up({"src/lib.rs": ""}, dependencies=["punch-y", "serde"]) as crate:
            self.assertEqual(self.complaints(crate), [])
        with made_up({"src/lib.rs": ""}, dependencies=["punch-z", "tokio"]) as crate:
            self.assertEqual(self.complaints(crate), ["punch-x must not import punch-z", "punch-x is a pure room and must not import tokio"])
        with made_up({"src/lib.rs": ""}, name="punch-strange") as crate:
            self.assertIn("punch-strange is not a room", self.complaints(crate)[0])

    def test_a_pure_room_has_clippy_refuse_the_clock(self):
        with made_up({"src/lib.rs": ""}) as crate:
            (crate.folder / "clippy.toml").unlink()
            self.assertEqual(self.complaints(crate), ["punch-x is a pure room, and its clippy.toml says otherwise"])

    def test_what_one_place_may_name_is_found_in_others(self):
        files = {"src/lib.rs": 'mod a; // boringtun::x\nconst A: &str = "boringtun::x";\n#[cfg(test)] use boringtun::x;\n', "src/a.rs": ""}
        only = [(r"\bboringtun::", "", "x/src/only.rs", True, "only there")]
        with made_up(files) as crate:
            self.assertEqual(self.complaints(crate, only), [])
            strict = [(*only[0][:3], False, only[0][4])]
            self.assertEqual(self.complaints(crate, strict), ["x/src/lib.rs:3: only there: #[cfg(test)] use boringtun::x;"])
            place = crate.folder / "tests.rs"
            place.write_text("fn a() {\n    boringtun::x()\n}", encoding="utf-8")
            self.assertIn("x/tests.rs:2: only there: boringtun::x()", self.complaints(crate, strict, tests=[(place, "x/tests.rs")]))
        files["src/a.rs"] = "fn a() { boringtun::x() }"
        with made_up(files) as crate:
            self.assertEqual(self.complaints(crate, only), ["x/src/a.rs:1: only there: fn a() { boringtun::x() }"])
            self.assertEqual(self.complaints(crate, [(only[0][0], "", "x/src/a.rs", *only[0][3:])]), [])

    def test_known_offenders_and_exceptions_may_only_go(self):
        with made_up({"src/lib.rs": "pub fn a() {}"}) as crate:
            self.assertEqual(self.complaints(crate, known=["docs x/src/lib.rs a"]), [])
            self.assertEqual(self.complaints(crate, known=["docs x/src/lib.rs a", "file x/src/b.rs"]),
                             ["known-offenders: 'file x/src/b.rs' is mended: remove its line"])
            self.assertEqual(self.complaints(crate, known=["docs x/src/lib.rs a"], long_functions={"x/src/lib.rs a": "why"}),
                             ["scripts/layers: 'x/src/lib.rs a' is no longer a long function: remove its exception"])


class Figures(unittest.TestCase):
    def test_all_of_the_table_is_counted(self):
        files = {"src/lib.rs": '''
            //! A crate that is made up.
            mod a;
            // Plain.
            pub struct A { pub(crate) b: u8 }
            impl A {
                /// Does things.
                pub fn c(&self) { Some(Instant::now()).unwrap(); unsafe { d() } } }
            #[cfg(test)] mod tests { fn e() { None.expect("x"); } }
        ''', "src/a.rs": "use crate::A;\nimpl A {}\nfn f() { getrandom(OsRng); }"}
        with made_up(files) as crate:
            found = figures.collect([crate], "[[package]]\n[[package]]\n")
        expected = dict(files=2, lines=11, file_largest=8, files_over=0, functions=2, function_longest=1, structs_largest=["A 1"], cycles=[],
                        public_items=2, documented_percent=50.0, short_docs_percent=100.0, unsafe=1, unwrap_expect=1, pure_crates=1,
                        clock_in_pure=1, random_in_pure=2, locked_crates=2, spread=["x/src/lib.rs::A 2"])
        self.assertEqual({key: found[key] for key in expected}, expected)
        self.assertIn(("files / lines (not tests)", "2 / 11"), list(figures.table(found)))


def main():
    suite = unittest.defaultTestLoader.loadTestsFromModule(__import__(__name__, fromlist=["*"]))
    done = unittest.TextTestRunner(verbosity=0).run(suite)
    return int(not done.wasSuccessful())
