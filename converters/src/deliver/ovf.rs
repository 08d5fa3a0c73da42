//! The OVF descriptor of an appliance with one disk (DMTF DSP0243).

use std::fmt::Write;

use super::delivery::Delivery;
use super::platform::Machine;
use super::settings::Settings;
use crate::guest::system::System;

/// Returns the type of an operating system: its number in CIM (`CIM_OperatingSystem.OsType`), VMware's name, and a
/// description.
fn os_type(system: &System) -> (u16, &'static str, String) {
    let id = system.os.as_ref().map_or("", |os| &os.id);
    let (number, name) = match id {
        "debian" => (96, "debian10_64Guest"),
        "ubuntu" => (94, "ubuntu64Guest"),
        "rhel" | "rocky" | "almalinux" | "ol" => (80, "rhel8_64Guest"),
        "centos" => (107, "centos8_64Guest"),
        "sles" | "sled" => (85, "sles15_64Guest"),
        "opensuse" | "opensuse-leap" | "opensuse-tumbleweed" => (83, "opensuse64Guest"),
        "windows" => (102, "windows9_64Guest"),
        "" => (102, "otherGuest64"),
        _ => (101, "other4xLinux64Guest"),
    };
    let description = system.os.as_ref().map_or_else(String::new, |os| os.name.clone());
    (number, name, description)
}

fn escape(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            c if c.is_control() => out += " ",
            c => out.push(c),
        }
    }
    out
}

/// Adds an `Item` of the virtual hardware. Its elements are sorted by name, as the schema demands.
fn item(out: &mut String, elements: &[(&str, &str)]) {
    debug_assert!(elements.is_sorted());
    *out += "      <Item>\n";
    for (name, value) in elements {
        writeln!(out, "        <rasd:{name}>{}</rasd:{name}>", escape(value)).expect("writing to memory");
    }
    *out += "      </Item>\n";
}

/// Returns the descriptor. `file` is the disk's name, `file_size` the size of that file in bytes.
pub(super) fn descriptor(
    delivery: &Delivery<'_>,
    machine: &Machine,
    settings: &Settings,
    file: &str,
    file_size: u64,
) -> String {
    let Settings { cpus, memory, is_efi } = settings;
    let (name, origin) = (escape(delivery.name), escape(&delivery.origin()));
    let capacity = delivery.disk.len().next_multiple_of(512);
    let (os, vmware_os, description) = os_type(delivery.system);
    let description = escape(&description);
    let Machine { system, network } = machine;
    let mut hardware = String::new();
    let (cpus, memory) = (cpus.to_string(), memory.to_string());
    item(
        &mut hardware,
        &[
            ("AllocationUnits", "hertz * 10^6"),
            ("ElementName", "CPUs"),
            ("InstanceID", "1"),
            ("ResourceType", "3"),
            ("VirtualQuantity", &cpus),
        ],
    );
    item(
        &mut hardware,
        &[
            ("AllocationUnits", "byte * 2^20"),
            ("ElementName", "Memory"),
            ("InstanceID", "2"),
            ("ResourceType", "4"),
            ("VirtualQuantity", &memory),
        ],
    );
    let adapter = delivery.options.iter().rev().find(|(key, _)| key == "adapter_type");
    let adapter = adapter.map_or("lsilogic", |(_, value)| value.as_str());
    let (controller, kind) = match adapter {
        "ide" => ("5", "PIIX4"),
        other => ("6", other),
    };
    item(
        &mut hardware,
        &[
            ("Address", "0"),
            ("ElementName", "Disk controller"),
            ("InstanceID", "3"),
            ("ResourceSubType", kind),
            ("ResourceType", controller),
        ],
    );
    item(
        &mut hardware,
        &[
            ("AddressOnParent", "0"),
            ("ElementName", "Disk"),
            ("HostResource", "ovf:/disk/disk1"),
            ("InstanceID", "4"),
            ("Parent", "3"),
            ("ResourceType", "17"),
        ],
    );
    item(
        &mut hardware,
        &[
            ("AddressOnParent", "7"),
            ("AutomaticAllocation", "true"),
            ("Connection", "network"),
            ("ElementName", "Network"),
            ("InstanceID", "5"),
            ("ResourceSubType", network),
            ("ResourceType", "10"),
        ],
    );
    if *is_efi {
        hardware += "      <vmw:Config ovf:required=\"false\" vmw:key=\"firmware\" vmw:value=\"efi\"/>\n";
    }
    format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData" xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData" xmlns:vmw="http://www.vmware.com/schema/ovf">
  <References>
    <File ovf:href="{file}" ovf:id="file1" ovf:size="{file_size}"/>
  </References>
  <DiskSection>
    <Info>Virtual disks</Info>
    <Disk ovf:capacity="{capacity}" ovf:capacityAllocationUnits="byte" ovf:diskId="disk1" ovf:fileRef="file1" ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"/>
  </DiskSection>
  <NetworkSection>
    <Info>Networks</Info>
    <Network ovf:name="network">
      <Description>The network of the machine</Description>
    </Network>
  </NetworkSection>
  <VirtualSystem ovf:id="{name}">
    <Info>A virtual machine</Info>
    <Name>{name}</Name>
    <AnnotationSection>
      <Info>Where this machine comes from</Info>
      <Annotation>{origin}</Annotation>
    </AnnotationSection>
    <OperatingSystemSection ovf:id="{os}" vmw:osType="{vmware_os}">
      <Info>The operating system</Info>
      <Description>{description}</Description>
    </OperatingSystemSection>
    <VirtualHardwareSection>
      <Info>Virtual hardware</Info>
      <System>
        <vssd:ElementName>Virtual hardware family</vssd:ElementName>
        <vssd:InstanceID>0</vssd:InstanceID>
        <vssd:VirtualSystemIdentifier>{name}</vssd:VirtualSystemIdentifier>
        <vssd:VirtualSystemType>{system}</vssd:VirtualSystemType>
      </System>
{hardware}    </VirtualHardwareSection>
  </VirtualSystem>
</Envelope>
"#
    )
}
