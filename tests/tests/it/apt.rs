//! The test that takes longest. Tests run in the order of their names: others run beside this one, and none waits for it at the
//! end.

#[test]
fn an_updated_debian_is_as_if_apt_had_run_in_it_and_boots_its_new_kernel() {
    crate::update::updated_debian_is_as_if_apt_had_run_in_it();
}
